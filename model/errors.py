"""Everything this package raises on purpose: the thing, its value, what was expected and what to do."""


class ModelError(Exception):
    """Base of all errors of this package."""


class CheckpointError(ModelError):
    """A file or a set of tensors is not a usable RWKV-7 checkpoint."""


class ShapeError(ModelError, ValueError):
    """Sizes that no RWKV-7 can have, or tensors whose shapes do not fit together."""


class SettingsError(ModelError, ValueError):
    """A question to Future-Seed settings that has no answer."""


class KernelError(ModelError):
    """A WKV-7 backend is unknown, unavailable, or not able to compute the given tensors."""


class TokenizerError(ModelError, ValueError):
    """A text or an id that the vocabulary cannot express."""
