"""What a catalog holds open at servers, and gives back."""

from __future__ import annotations

import gc
import threading
import time
from urllib.parse import urlsplit

import psutil
from stacks import Stack

import catalog

pytest_plugins = ["stacks"]


def sockets(stack: Stack) -> int:
    """Connections of this process to the servers of files and of the repository."""
    addresses = [stack.server.url, *([stack.moto] if stack.moto else [])]
    ports = {urlsplit(address).port for address in addresses}
    found = psutil.Process().net_connections("inet")
    return sum(
        one.status == psutil.CONN_ESTABLISHED and bool(one.raddr) and one.raddr.port in ports
        for one in found
    )


def read_at_once(cat: catalog.Catalog, threads: int) -> None:
    """Every thread reads a scene, all at the same time."""
    scenes = list(cat.search(tile="10TFR", limit=1))
    failures: list[BaseException] = []
    together = threading.Barrier(threads)

    def read() -> None:
        together.wait()
        try:
            for scene in scenes:
                scene.open(resolution=20, bands=["scl", "rededge1"]).cogcat.load()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    running = [threading.Thread(target=read) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert failures == []


def test_close_gives_every_socket_back(crawled: Stack) -> None:
    gc.collect()
    before = sockets(crawled)
    cat = crawled.connect()
    read_at_once(cat, 20)
    held = sockets(crawled) - before
    cat.close()
    gc.collect()
    ends = time.monotonic() + 5
    while sockets(crawled) > before and time.monotonic() < ends:
        time.sleep(0.02)
    assert held > 10
    assert sockets(crawled) <= before
    # What is used again opens others.
    assert cat.search(tile="10TFR").to_pandas().shape[0] == 3
    read_at_once(cat, 1)
    cat.close()
