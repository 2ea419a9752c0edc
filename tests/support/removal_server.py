"""A server for the script's removal: a real nginx, a lineage, and a stand-in for certbot."""

import subprocess
from pathlib import Path
from textwrap import dedent

from tests.support.agent import Agent
from tests.support.authority import Authority
from tests.support.nginx import NGINX

CERTBOT = """
echo "$*" >>"$STANDIN_LOG"
printf '%s' "${STANDIN_STDOUT:-}"; printf '%s' "${STANDIN_STDERR:-}" >&2
[ "${STANDIN_FAILS:-}" != "$1" ] || exit 1
[ "$1" != delete ] || rm -rf "$CERTPILOT_LETSENCRYPT"/live/a.test "$CERTPILOT_LETSENCRYPT"/archive/a.test "$CERTPILOT_LETSENCRYPT"/renewal/a.test.conf
"""


class Server(Agent):
    """An agent's home beside the configuration of a real nginx and one lineage."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self.nginx = folder / "nginx"
        self.sites = self.nginx / "sites"
        self.sites.mkdir(parents=True)
        (self.nginx / "nginx.conf").write_text(
            f"pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\nhttp {{ include {self.sites}/*; }}\n"
        )
        (self.bin / "certbot").unlink()
        self.stub("certbot", CERTBOT)
        command = f'exec {NGINX} -p {folder} -c {self.nginx}/nginx.conf "$@"'
        self.stub("nginx", f'[ "$1" != -s ] || {{ echo "nginx $*" >>{self.log}; exit; }}\n{command}\n')
        self.live = self.letsencrypt / "live/a.test"
        self.authority = authority
        self.issue()

    def issue(self, *, days: int = 5) -> None:
        leaf = self.authority.leaf("a.test", "www.a.test", days=days)
        archive = self.letsencrypt / "archive/a.test"
        for made in (archive, self.live, self.letsencrypt / "renewal"):
            made.mkdir(parents=True, exist_ok=True)
        for kind in ("cert", "fullchain", "privkey"):
            (archive / f"{kind}1.pem").write_bytes(leaf.read_bytes())
            (self.live / f"{kind}.pem").unlink(missing_ok=True)
            (self.live / f"{kind}.pem").symlink_to(f"../../archive/a.test/{kind}1.pem")
        (self.letsencrypt / "renewal/a.test.conf").write_text("version = 2.1.0\naccount = 0123abcd\n")

    def vhost(self, text: str, name: str = "a.test") -> Path:
        """Write the vhost file; LIVE stands for the lineage's folder."""
        path = self.sites / name
        path.write_text(dedent(text).replace("LIVE", str(self.live)))
        return path

    def other_lineage(self) -> Path:
        """The folder of a lineage that stays."""
        other = self.letsencrypt / "live/b.test"
        other.mkdir()
        leaf = self.authority.leaf("b.test").read_bytes()
        for kind in ("fullchain", "privkey"):
            (other / f"{kind}.pem").write_bytes(leaf)
        return other

    def is_valid(self) -> bool:
        done = subprocess.run(
            [self.bin / "nginx", "-t"], capture_output=True, text=True, check=False, timeout=20
        )
        return done.returncode == 0 and "[warn]" not in done.stderr

    def lineage(self) -> list[str]:
        return [str(f) for f in self.letsencrypt.rglob("*") if "a.test" in f.name]
