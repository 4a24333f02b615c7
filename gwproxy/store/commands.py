"""Commands as they are sent, and an exchange of some on a connection of their own."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.exceptions import ResponseError

from gwproxy.store.connection import refuses_all

Argument = str | bytes | int | float


def pack(*command: Argument) -> bytes:
    """Return ``command`` in the form in which it is sent, an array of bulk strings.

    :raises TypeError: an argument is none of those that have one form only.
    """
    return b"*%d\r\n%b" % (len(command), b"".join(map(bulk, command)))


def bulk(argument: Argument) -> bytes:
    """Return one argument of a command as it is sent.

    :raises TypeError: as :func:`pack`.
    """
    if not isinstance(argument, bytes):
        if isinstance(argument, str):
            argument = argument.encode()
        elif isinstance(argument, int | float) and not isinstance(argument, bool):
            argument = repr(argument).encode()
        else:
            raise TypeError(f"an argument of a command is text, bytes or a number, not {type(argument).__name__}")
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


def exchange(client: redis.Redis, packed: bytes, count: int, until: float | None = None) -> list[Any]:
    """Send packed commands on a connection that nobody else uses meanwhile; return the replies, error replies among them.

    A connection on which a reply may still be under way is closed, and so is one to a store that refuses everything.

    :param count: of the commands.
    :param until: when to give up, by ``time.monotonic``; None: as the client does.
    :raises redis.RedisError: the store is away.
    """
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    replies: list[Any] = []
    try:
        connection.send_packed_command([packed], check_health=False)
        for _ in range(count):
            limit = {} if until is None else {"timeout": max(until - time.monotonic(), 0.001)}
            try:
                replies.append(connection.read_response(**limit))
            except ResponseError as error:
                replies.append(error)
                if refuses_all(error):
                    connection.mark_for_reconnect()  # closed when it is given back: a demoted master is left
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
    return replies
