"""The private names of OmegaConf behave as the project assumes."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import UnsupportedInterpolationType

from src.config.omegaconf_internals import full_key_of, only_resolvers, root_of


def test_the_root_of_a_part_is_the_whole():
    whole = OmegaConf.create({"a": {"b": {"c": 1}}})
    assert root_of(whole.a.b) is whole
    assert root_of(whole) is whole


def test_a_resolver_learns_the_full_key_of_its_setting():
    OmegaConf.register_new_resolver("key_of_this", lambda *, _node_: full_key_of(_node_))
    try:
        assert OmegaConf.create({"a": {"b": "${key_of_this:}"}}).a.b == "a.b"
    finally:
        OmegaConf.clear_resolver("key_of_this")


def test_other_resolvers_are_unknown_meanwhile_and_known_afterwards(monkeypatch):
    monkeypatch.setenv("SECRET", "secret")
    reading = OmegaConf.create({"a": "${oc.env:SECRET}", "b": "${oc.select:a}"})
    with pytest.raises(UnsupportedInterpolationType, match=r"oc\.env"), only_resolvers(["oc.select"]):
        print(reading.b)
    assert reading.b == "secret"
