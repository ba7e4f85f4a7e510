"""The paper, part 2: the models.

Read encoder.py, decoder.py and composite.py, then feedback.py and classifier.py. samples.py serves
the gradient check.
"""

from .classifier import Classifier
from .composite import Autoencoder, Composite, EncoderDecoder, FuturePredictor
from .decoder import STARTS, Decoder
from .encoder import Encoder
from .feedback import decoder_steps

__all__ = [
    "STARTS",
    "Autoencoder",
    "Classifier",
    "Composite",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "FuturePredictor",
    "decoder_steps",
]
