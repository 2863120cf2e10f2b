"""nginx and haproxy, each in a process of its own, in front of a WebSocket server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from .support import Command, Program, requires, tool

__all__ = ["NGINX", "PROXIES", "ReverseProxy"]

#: Before a proxy is told again.
PATIENCE_S: Final = 0.5


@attrs.frozen(kw_only=True)
class Site:
    """What a proxy has to do."""

    #: For its configuration, and for whatever it writes.
    folder: Path
    upstream: int
    #: Where /page.html is, and what it posts to.
    pages: int = 0
    #: How long a link may be silent.
    idle_s: int = 60
    #: TLS ends at the proxy if there is one.
    certificate: Path | None = None


def _nginx_configuration(site: Site, port: int) -> str:
    tls = "" if site.certificate is None else " ssl"
    certificate = f"ssl_certificate {site.certificate}; ssl_certificate_key {site.certificate};"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return f"""
        daemon off;
        pid {site.folder}/nginx.pid;
        error_log stderr notice;
        worker_processes 1;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ }}
        http {{
            access_log off;
            {" ".join(f"{kind}_temp_path {site.folder}/{kind};" for kind in kinds)}
            server {{
                listen 127.0.0.1:{port}{tls};
                {certificate if tls else ""}
                location / {{
                    proxy_pass http://127.0.0.1:{site.upstream};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection "upgrade";
                    proxy_set_header Host $http_host;
                    proxy_read_timeout {site.idle_s}s;
                }}
                location = /page.html {{ proxy_pass http://127.0.0.1:{site.pages or port}; }}
                location = /result {{ proxy_pass http://127.0.0.1:{site.pages or port}; }}
            }}
        }}
    """


def _haproxy_configuration(site: Site, port: int) -> str:
    tls = "" if site.certificate is None else f" ssl crt {site.certificate}"
    return "\n".join(
        [
            "defaults",
            "  mode http",
            "  timeout connect 5s",
            f"  timeout client {site.idle_s}s",
            f"  timeout server {site.idle_s}s",
            f"  timeout tunnel {site.idle_s}s",
            "frontend all",
            f"  bind 127.0.0.1:{port}{tls}",
            "  default_backend upstream",
            "backend upstream",
            "  retries 0",
            f"  server one 127.0.0.1:{site.upstream}",
            "",
        ]
    )


@attrs.frozen(kw_only=True)
class ReverseProxy:
    """How a proxy is run, and told to read its configuration again."""

    name: str
    configuration: Callable[[Site, int], str]
    arguments: Callable[[Path], list[str]]
    #: What it prints when it listens.
    ready: str
    reload_signal: signal.Signals
    #: What it prints when it has done so, the how many-th time since its start.
    reloaded: tuple[str, int]
    #: What it answers while its upstream is down.
    status: int

    def command(self, **site: Any) -> Command:
        """How to start it, by the fields of `Site`."""

        def command(port: int) -> list[str]:
            wanted = Site(**site)
            file = wanted.folder / f"{self.name}.conf"
            file.write_text(self.configuration(wanted, port))
            return [str(tool(self.name)), *self.arguments(file)]

        return command

    async def reload(self, program: Program) -> None:
        """Have it read its configuration again; returns when it has."""
        while True:
            program.send_signal(self.reload_signal)
            # haproxy loses a signal that comes while its master starts itself anew.
            with trio.move_on_after(PATIENCE_S):
                await program.wait_line(*self.reloaded)
                return


NGINX: Final = ReverseProxy(
    name="nginx",
    configuration=_nginx_configuration,
    arguments=lambda file: ["-e", "stderr", "-p", str(file.parent), "-c", str(file)],
    ready="start worker process ",
    reload_signal=signal.SIGHUP,
    reloaded=("gracefully shutting down", 1),
    status=502,
)
HAPROXY: Final = ReverseProxy(
    name="haproxy",
    configuration=_haproxy_configuration,
    arguments=lambda file: ["-W", "-db", "-f", str(file), "-p", str(file.with_suffix(".pid"))],
    ready="Loading success",
    reload_signal=signal.SIGUSR2,
    reloaded=("Loading success", 2),
    status=503,
)
PROXIES: Final = [
    pytest.param(proxy, id=proxy.name, marks=requires(proxy.name)) for proxy in (NGINX, HAPROXY)
]
