"""Bodies in which a single foreign, missing or repeated byte is seen: every 32 bytes name their request and their place."""

from __future__ import annotations

#: Bytes of a nonce.
LENGTH = 16
_BLOCK = 32
_PLACEHOLDER = b"?" * LENGTH
_MOST = 8 << 20

_template = b""


def content(nonce: str, size: int) -> bytes:
    """Return the first ``size`` bytes of the body that belongs to ``nonce``, of 16 ASCII characters."""
    global _template
    blocks = -(-size // _BLOCK)
    if len(_template) < blocks * _BLOCK:
        if size > _MOST:
            raise ValueError(f"at most {_MOST} bytes, not {size}")
        more = max(blocks, 1024, len(_template) // _BLOCK * 2)
        _template = b"".join(b"%b:%014x\n" % (_PLACEHOLDER, number) for number in range(min(more, _MOST // _BLOCK)))
    # PERF: one replace of a whole template takes 2 ms for 4 MiB; formatting each block 40.
    return _template[: blocks * _BLOCK].replace(_PLACEHOLDER, nonce.encode("ascii"))[:size]


def difference(got: bytes, nonce: str, size: int, *, cut: bool = False) -> str | None:
    """Say where ``got`` is not the body of ``nonce``, with the bytes of both; None: it is.

    :param cut: ``got`` may end early; what there is of it must be right.
    """
    wanted = content(nonce, min(size, len(got)) if cut else size)
    if got == wanted:
        return None
    at = next((i for i, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other), min(len(got), len(wanted)))
    begin = max(0, at - at % _BLOCK)
    return (
        f"byte {at} of {len(got)} (wanted {size}): "
        f"got {bytes(got[begin : begin + 2 * _BLOCK])!r}, wanted {bytes(wanted[begin : begin + 2 * _BLOCK])!r}"
    )
