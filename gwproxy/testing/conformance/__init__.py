"""The conformance kit: what a plugin has to withstand before it meets real traffic. ``gwproxy plugins check`` runs it."""

from gwproxy.testing.conformance.finding import RULES, Finding, Report
from gwproxy.testing.conformance.trial import conform

__all__ = ["RULES", "Finding", "Report", "conform"]
