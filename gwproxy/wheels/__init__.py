"""Plugins that are pushed to a running fleet: signed pure-Python wheels, read, verified and loaded from memory.

Nothing here talks to a store. :mod:`~gwproxy.wheels.deployment` says which wheels are live, :mod:`~gwproxy.wheels.minisign` who
vouches for one, :mod:`~gwproxy.wheels.wheel` what is in it, and :mod:`~gwproxy.wheels.loading` makes plugins of it.
"""
