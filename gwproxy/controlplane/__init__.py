"""What happens once a change: bytes become a validated document, a snapshot, and what every worker runs.

Nothing here is on the path of a request. The parser, in the order in which a document passes it:

* :mod:`~gwproxy.controlplane.text`: bytes to a tree of dicts, lists and scalars, with the place of each
  (:mod:`~gwproxy.controlplane.jsontext`, :mod:`~gwproxy.controlplane.yamltext`);
* :mod:`~gwproxy.controlplane.environment`: ``${NAME}`` to what the environment holds;
* :mod:`~gwproxy.controlplane.parse`: the tree to a :class:`~gwproxy.model.Document` and the plugins' configurations, or
  every problem at once, said by :mod:`~gwproxy.controlplane.wording`;
* :mod:`~gwproxy.controlplane.checks`: what no single model can see.
"""
