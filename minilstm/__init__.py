"""minilstm: "Unsupervised Learning of Video Representations using LSTMs", to be read.

Every forward and backward pass is written out, in plain NumPy or CuPy. Read in this order:
cells.py, rnn.py, lstm.py, stack.py, models.py, losses.py, train.py.

    model = minilstm.load("runs/composite-0")      # a run folder of `python -m minilstm.train`
    future = model.rollout(past, 50)               # past (T, B, ...) in [0, 1] -> (50, B, ...)
"""

from . import data
from .backend import asarray, to_numpy, use_backend
from .config import Config
from .dropout import Dropout
from .errors import MinilstmError
from .experiment import load_run as load
from .layer import Init, Layer, Param, Sample
from .linear import Linear
from .losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from .lstm import LSTM, PeepholeLSTM, SlidesLSTM
from .models import Autoencoder, Classifier, Composite, Decoder, Encoder, FuturePredictor
from .optim import SGD, Adam, RMSProp, clip_norm, schedule
from .rnn import ElmanRNN, SlidesRNN
from .stack import Stack
from .workspace import Fresh, Reused, use_workspace

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "SGD",
    "Adam",
    "Autoencoder",
    "BernoulliCrossEntropy",
    "Classifier",
    "Composite",
    "Config",
    "Decoder",
    "Dropout",
    "ElmanRNN",
    "Encoder",
    "Fresh",
    "FuturePredictor",
    "Init",
    "Layer",
    "Linear",
    "MinilstmError",
    "Param",
    "PeepholeLSTM",
    "RMSProp",
    "Reused",
    "Sample",
    "SlidesLSTM",
    "SlidesRNN",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Stack",
    "asarray",
    "clip_norm",
    "data",
    "load",
    "schedule",
    "to_numpy",
    "use_backend",
    "use_workspace",
]
