"""Token ids that the language model does not have are found on the host.

On a GPU an index out of range ends every computation of the process, with a message that names no cause.
"""

from collections.abc import Iterable

from imagecap.errors import ImageCapError


def require_known_tokens(ids: Iterable[int], size: int, source: str) -> None:
    """Check token ids before they reach the model.

    Args:
        ids: token ids.
        size: number of tokens of the language model.
        source: where the ids come from, as the subject of a sentence.

    Raises:
        ImageCapError: the language model does not have one of them.
    """
    unknown = next((token for token in ids if not 0 <= token < size), None)
    if unknown is not None:
        raise ImageCapError(
            f"{source} has token {unknown}, but the language model has the tokens 0 to {size - 1}: "
            "its tokenizer and settings must be those of the same checkpoint"
        )
