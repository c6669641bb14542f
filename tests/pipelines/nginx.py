"""A real nginx with the configuration of deploy/, on ports and files of the test."""

import os
import socket
import ssl
import subprocess
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.pipelines.servers import Server, free_port

USER, PASSWORD = "shop", "a secret"
BODY_TIMEOUT = 2  # seconds; the documented value would make the test wait for as long
_MAIN = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Nginx:
    """nginx in front of a server on a port of loopback.

    Attributes:
        port: where it listens, with TLS.
        tls: what a client trusts.
    """

    def __init__(self, folder: Path, upstream: int) -> None:
        folder.mkdir()
        self.port = free_port()
        certificate, key, passwords = folder / "tls.pem", folder / "tls.key", folder / "passwords"
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        request = ["openssl", "req", "-x509", *curve, "-subj", "/CN=localhost", "-addext", names]
        subprocess.run([*request, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True)
        passwords.write_text(f"{USER}:{hashed.stdout}")
        site = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
        for documented, here in {
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "127.0.0.1:5001": f"127.0.0.1:{upstream}",
            "/etc/ssl/imagecap.pem": str(certificate),
            "/etc/ssl/imagecap.key": str(key),
            "/etc/nginx/imagecap.htpasswd": str(passwords),
            "client_body_timeout 10s": f"client_body_timeout {BODY_TIMEOUT}s",
        }.items():
            assert documented in site, documented
            site = site.replace(documented, here)
        (folder / "site.conf").write_text(site, encoding="utf-8")
        user = "user root;" if os.geteuid() == 0 else ""  # its workers would be another user, who may not come in here
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user))
        self.tls = ssl.create_default_context(cafile=str(certificate))
        command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        self._server = Server(command, folder, dict(os.environ), None)
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < until, "nginx does not listen"
                time.sleep(0.05)

    def kill(self) -> None:
        """End it with its workers."""
        self._server.kill()
