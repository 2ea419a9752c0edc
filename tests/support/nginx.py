"""A real nginx on free ports of loopback, without daemon and without root."""

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from workers.core.nginx.challenge import CHALLENGE_FOLDER

PATH = CHALLENGE_FOLDER + "certpilot-probe"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
NAMES = ("a.test", "b.a.test", "www.a.test", "c.test", "www.c.test", "other.test")
ROOTS = 6
LISTEN = re.compile(r"(listen (?:127\.0\.0\.1:)?)(\d+)\b")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Nginx:
    """A real nginx on free ports; the configuration that the core reads says 80 and 443."""

    def __init__(self, folder: Path, tls: Path) -> None:
        self.folder, self.tls = folder, tls
        self.http, self.https = free_port(), free_port()
        for n in range(ROOTS):
            file = folder / f"r{n}{PATH}"
            file.parent.mkdir(parents=True)
            file.write_text(f"file of {folder}/r{n}")

    def text(self, servers: str) -> str:
        return (
            f"daemon off; master_process off; pid {self.folder}/pid; error_log {self.folder}/error.log;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2;\n"
            f"fastcgi_temp_path {self.folder}/t3; uwsgi_temp_path {self.folder}/t4; scgi_temp_path {self.folder}/t5;\n"
            f"ssl_certificate {self.tls}/cert.pem; ssl_certificate_key {self.tls}/key.pem;\n"
            f"{servers.replace('ROOT', str(self.folder) + '/r')}\n}}\n"
        )

    def dump(self, servers: str) -> str:
        """The output of `nginx -T`, with the ports a customer's server has."""
        self.write(servers)
        done = subprocess.run(
            [NGINX, "-T", "-c", self.folder / "nginx.conf"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
        customers = {str(self.http): "80", str(self.https): "443"}
        return LISTEN.sub(lambda m: m[1] + customers[m[2]], done.stdout)

    def write(self, servers: str) -> None:
        mine = {"80": str(self.http), "443": str(self.https)}
        (self.folder / "nginx.conf").write_text(
            self.text(LISTEN.sub(lambda m: m[1] + mine.get(m[2], m[2]), servers))
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        process = subprocess.Popen([NGINX, "-c", self.folder / "nginx.conf"], stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and process.poll() is None:
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", self.http)) == 0:
                        break
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=10)

    def fetch(self, name: str) -> str | None:
        """The challenge file as the CA would get it, redirects followed; None where it does not get one."""
        url, context = f"http://{name}{PATH}", ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(11):
            parts = urlsplit(url)
            if parts.hostname not in NAMES:
                return None
            if parts.scheme == "https":
                link = http.client.HTTPSConnection("127.0.0.1", self.https, timeout=5, context=context)
            else:
                link = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
            try:
                link.request("GET", parts.path, headers={"Host": parts.hostname})
                answer = link.getresponse()
                body = answer.read().decode()
            except OSError:
                return None
            finally:
                link.close()
            if answer.status in {301, 302, 307, 308}:
                url = (
                    answer.headers["Location"].replace(f":{self.http}/", "/").replace(f":{self.https}/", "/")
                )
                continue
            return (
                body.removeprefix("file of ") if answer.status == 200 and body.startswith("file of") else None
            )
        return None
