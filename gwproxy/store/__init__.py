"""The one place that talks to Redis.

``connection`` opens it, ``pipeline`` shares one connection among greenlets, ``breaker`` and ``roundtrips`` bound what a
request may wait for it, ``shared`` is what plugins see of it (counters, keys, logs), ``configuration`` is what control
planes keep in it, ``embedded`` starts one.
Redis errors do not leave this package: they become :class:`~gwproxy.errors.StoreUnavailable`.
"""
