"""The paper, part 2: encoder, decoders, composite model, classifier. Read composite.py."""

from .composite import (
    STARTS,
    Autoencoder,
    Classifier,
    Composite,
    Decoder,
    Encoder,
    EncoderDecoder,
    FuturePredictor,
    decoder_steps,
)

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
