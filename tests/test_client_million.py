"""A slice of benchmarks/client_million.py: 64 callers on one client; no reply lost, doubled or crossed; memory flat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import client_million


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with client_million.served() as urls:
        yield urls


@pytest.mark.server
@pytest.mark.parametrize("mode", ["threads", "asyncio"])
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_replies_match_their_requests(urls: dict[str, str], transport: str, mode: str) -> None:
    outcome = client_million.run(urls[transport], mode, 5_000)
    assert outcome.replies == 5_000
    assert outcome.rss_end - outcome.rss_start < 60e6


def test_a_crossed_reply_is_found() -> None:
    watch = client_million._Watch(100)
    watch.check(3, 7, client_million.request(3, 7))
    with pytest.raises(AssertionError):
        watch.check(3, 7, client_million.request(4, 7))
    with pytest.raises(AssertionError):
        watch.check(3, 7, client_million.request(3, 8))
    assert watch.right == 1
