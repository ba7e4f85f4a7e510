"""The paper, part 2. Read encoder.py, decoder.py, composite.py, feedback.py, classifier.py."""

from .classifier import Classifier
from .composite import Autoencoder, Composite, EncoderDecoder, FuturePredictor
from .decoder import STARTS, Decoder, decoder_steps
from .encoder import Encoder

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
