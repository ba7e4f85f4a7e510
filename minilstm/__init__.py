"""minilstm: "Unsupervised Learning of Video Representations using LSTMs", to be read.

Every forward and backward pass is written out, in plain NumPy or CuPy. Read in this order:
in layers/ cells.py, layer.py, linear.py, rnn.py, lstm.py, stack.py and losses.py; in models/
encoder.py, decoder.py and composite.py; training/step.py.

    model = minilstm.load("runs/composite-0")      # a run folder of `python -m minilstm.train`
    future = model.rollout(past, 50)               # past (T, B, ...) in [0, 1] -> (50, B, ...)
"""

from . import data
from .backend import asarray, set_backend, to_numpy, use_backend
from .config import Config
from .errors import MinilstmError
from .layers.dropout import Dropout
from .layers.init import Init
from .layers.layer import Layer, Param, Sample
from .layers.linear import Linear
from .layers.losses import BernoulliCrossEntropy, SoftmaxCrossEntropy, SquaredError
from .layers.lstm import LSTM, PeepholeLSTM, SlidesLSTM
from .layers.rnn import ElmanRNN, SlidesRNN
from .layers.stack import Stack
from .layers.workspace import Fresh, Reused, use_workspace
from .models import Autoencoder, Classifier, Composite, Decoder, Encoder, FuturePredictor
from .optim import SGD, Adam, RMSProp, clip_norm, schedule
from .runs.build import load_run as load

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
    "set_backend",
    "to_numpy",
    "use_backend",
    "use_workspace",
]
