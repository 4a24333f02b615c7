"""Every endpoint, in the order in which they are described."""

from __future__ import annotations

from gwproxy.admin import asking, canaries, changing, events, reading, tokens
from gwproxy.admin.endpoints import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (*reading.TABLE, *changing.TABLE, *canaries.TABLE, *asking.TABLE, *events.TABLE, *tokens.TABLE)
