"""The WebSocket protocol (RFC 6455), as far as it concerns who carries its bytes and reads no message. No sockets."""

from __future__ import annotations

import os
import struct

GOING_AWAY = 1001  # RFC 6455 section 7.4.1: the server goes down, or the page was left

_FIN = 0x80
_MASK = 0x80
_CLOSE = 0x8
_CONTROL = 0x8  # the bit that control frames have in their opcode
_LONGEST_HEAD = 14  # bytes
_LONGEST_CONTROL = 125  # bytes of payload


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a Close frame (RFC 6455 section 5.5.1).

    :param code: 1000 to 4999.
    :param reason: for people; 123 bytes of UTF-8 at most.
    :param masked: as clients have to, and servers must not (section 5.1).
    :raises ValueError: the reason is too long.
    """
    payload = struct.pack("!H", code) + reason.encode()
    if len(payload) > _LONGEST_CONTROL:
        raise ValueError(f"a control frame holds {_LONGEST_CONTROL} bytes")
    if not masked:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    key = os.urandom(4)
    return bytes((_FIN | _CLOSE, _MASK | len(payload))) + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


class Frames:
    """Tells where in a stream of bytes a frame of WebSocket ends (RFC 6455 section 5.2); keeps at most 13 bytes.

    A frame of one's own may be put in there, and nowhere else. The price is one turn of a loop a frame, whatever its
    length. Payloads are not looked at; messages are not put together: a control frame may stand between their fragments.

    :param masked: whether frames have to be masked: a client's, not a server's.

    :ivar closed: whether a Close frame has ended: no other frame may follow it.
    :ivar lost: whether something came that is no frame: nothing is known from there on.
    """

    __slots__ = ("_closing", "_head", "_left", "_masked", "closed", "lost")

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._head = b""  # of a frame, as long as it is not complete
        self._left = 0  # bytes of a frame's payload that are still to come
        self._closing = False  # that frame is a Close frame
        self.closed = False
        self.lost = False

    @property
    def between(self) -> bool:
        """Whether all that came ends with a whole frame (or nothing came), and another frame may follow."""
        return not (self._head or self._left or self.closed or self.lost)

    def feed(self, data: bytes) -> int:
        """Take the next bytes of the stream; return how many of them go up to the end of the last frame that ends here.

        :return: 0 if no frame ends in ``data``, or nothing is known.
        """
        at = end = 0
        while at < len(data) and not (self.closed or self.lost):
            if not self._left:
                at += self._begin(data[at : at + _LONGEST_HEAD])
                if self._head or self.lost:
                    break
            taken = min(self._left, len(data) - at)
            self._left -= taken
            at += taken
            if not self._left:
                end = at
                self.closed = self._closing
        return end

    def _begin(self, data: bytes) -> int:
        """Read the head of a frame, of which a part may have come before; return how many bytes of ``data`` it took."""
        before = len(self._head)
        head = self._head + data
        first, second = head[0], head[1] if len(head) > 1 else self._masked * _MASK
        length = second & 0x7F
        wide = {126: 2, 127: 8}.get(length, 0)
        size = 2 + wide + 4 * self._masked
        if (first & _CONTROL and (wide or not first & _FIN)) or bool(second & _MASK) != self._masked:
            self.lost = True
        elif len(head) < size:
            self._head = head
        else:
            self._head = b""
            self._left = int.from_bytes(head[2 : 2 + wide], "big") if wide else length
            self._closing = first & 0xF == _CLOSE
            self.lost = self._left >= 1 << 63
            return size - before
        return len(data)
