"""A deployment: a value with one way to be written, and rules about what goes together."""

from __future__ import annotations

import json

import pytest

from gwproxy.errors import WheelRefused
from gwproxy.wheels.deployment import MOST_WHEELS, Deployment, Pinned

A, B = "a" * 64, "b" * 64
TENANT = Pinned("gwproxy-tenant", "1.0", A, ("tenant",))
LIMITS = Pinned("limits", "2.0rc1", B, ("quota", "slots"))


def test_what_is_written_is_read_again_and_the_order_is_no_difference() -> None:
    one, other = Deployment((TENANT, LIMITS)), Deployment((LIMITS, TENANT))
    assert one == other == Deployment.load(one.dump())
    assert one.digest == other.digest != Deployment((TENANT,)).digest
    loose = json.dumps(json.loads(one.dump()), indent=3)
    assert Deployment.load(loose).digest == one.digest
    assert list(one) == [TENANT, LIMITS]
    assert one.plugins == {"tenant": TENANT, "quota": LIMITS, "slots": LIMITS}


def test_none_is_empty_and_has_no_digest() -> None:
    assert Deployment.load(b"") == Deployment.load("") == Deployment.load(Deployment().dump()) == Deployment()
    assert Deployment().digest == ""
    assert not Deployment()


def test_a_version_replaces_the_one_before_and_is_taken_away_by_any_spelling() -> None:
    newer = Pinned("gwproxy-tenant", "1.1", B, ("tenant", "tenants"))
    both = Deployment().with_(LIMITS).with_(TENANT).with_(newer)
    assert both.find("GWProxy_Tenant") == newer
    assert both.without("GWProxy_Tenant") == Deployment((LIMITS,))
    assert both.without("nothing") == both
    assert both.find("nothing") is None


def test_a_name_in_two_wheels_is_refused_naming_both() -> None:
    with pytest.raises(WheelRefused, match=r"'tenant' is in two wheels, gwproxy-tenant 1\.0 and other 3"):
        Deployment((TENANT,)).with_(Pinned("other", "3", B, ("tenant",)))


@pytest.mark.parametrize(
    ("wheels", "says"),
    [
        ((TENANT, Pinned("gwproxy-tenant", "1.1", B, ("other",))), "there twice, as 1.0 and 1.1"),
        (tuple(Pinned(f"d{n}", "1", A, (f"p{n}",)) for n in range(MOST_WHEELS + 1)), "200 at most"),
    ],
    ids=["distribution-twice", "too-many"],
)
def test_what_does_not_go_together_is_refused(wheels: tuple[Pinned, ...], says: str) -> None:
    with pytest.raises(WheelRefused, match=says):
        Deployment(wheels)


ROW = {"distribution": "tenant", "version": "1.0", "sha256": A, "plugins": ["tenant"]}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no object"),
        ({}, "no object"),
        ({"wheels": [], "more": 1}, "nothing else"),
        ({"wheels": {}}, "no object"),
        ({"wheels": [1]}, "does not have the keys"),
        ({"wheels": [{**ROW, "more": 1}]}, "no others"),
        ({"wheels": [{**ROW, "version": 1.0}]}, "something else than texts"),
        ({"wheels": [{**ROW, "plugins": "tenant"}]}, "list of texts"),
        ({"wheels": [{**ROW, "plugins": [7]}]}, "list of texts"),
        ({"wheels": [{**ROW, "plugins": []}]}, "has 0 plugins"),
        ({"wheels": [{**ROW, "plugins": [""]}]}, "with names"),
        ({"wheels": [{**ROW, "plugins": ["b", "a"]}]}, "not sorted"),
        ({"wheels": [{**ROW, "plugins": ["a", "a"]}]}, "twice"),
        ({"wheels": [{**ROW, "distribution": "Ten_Ant"}]}, "no normalized name"),
        ({"wheels": [{**ROW, "distribution": ""}]}, "no normalized name"),
        ({"wheels": [{**ROW, "version": "01.0"}]}, "no normalized version"),
        ({"wheels": [{**ROW, "version": "new"}]}, "no normalized version"),
        ({"wheels": [{**ROW, "sha256": A.upper()}]}, "no SHA-256"),
        ({"wheels": [{**ROW, "sha256": "../../etc/passwd"}]}, "no SHA-256"),
    ],
)
def test_anything_else_is_refused_and_says_what(written: object, says: str) -> None:
    text = written if isinstance(written, str) else json.dumps(written)
    with pytest.raises(WheelRefused, match=says):
        Deployment.load(text)
