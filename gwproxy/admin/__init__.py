"""The admin listener: the control plane over HTTP, for people, programs and probes. One process a machine.

Nothing of it runs in a worker of the gateway, and nothing that serves a request needs it. Begin at ``app.py``; what there
is to ask stands in one table, ``endpoints.py``, from which the app routes and ``openapi.py`` describes.
"""
