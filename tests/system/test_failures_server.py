"""What a server's admin has to mend: real servers in each of these states, told exactly, mended, and then active."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.codes import Code
from deploy.lab.lab import Lab
from deploy.lab.postgres import PostgresServer
from deploy.lab.rabbitmq import RabbitNode
from tests.conftest import TEMPLATE
from tests.support.failures import (
    Case,
    Step,
    Story,
    Trouble,
    all_roles,
    borrowed_servers,
    ca_clock_put_back,
    check_mended,
    check_told,
    go_through,
    nothing,
    wait_for_certbot,
)
from tests.support.installation import certbot_by_hand, installed
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(900)

KNOWN_HOSTS: dict[str, Path] = {}
"""The known_hosts file of each installation."""

PYTHON = "/usr/lib/python3/dist-packages"


def moved_away(path: str) -> Step:
    return lambda case: case.server.run(["mv", path, f"{path}.away"])


def moved_back(path: str) -> Step:
    return lambda case: case.server.run(["mv", f"{path}.away", path])


def written(path: str, text: str, *, mode: int = 0o644) -> Step:
    def write(case: Case) -> None:
        filled = text.replace("HOST", case.server.host).replace("DOMAIN", case.domain)
        case.server.write(path, filled, mode=mode)

    return write


def removed(path: str) -> Step:
    return lambda case: case.server.run(["rm", "-r", path.replace("DOMAIN", case.domain)])


def shell(script: str) -> Step:
    """Run as root on the server; the name is its first argument."""
    return lambda case: case.server.run(["sh", "-ec", script, "sh", case.domain])


OTHER = "/etc/nginx/conf.d/other.conf"
OTHER_CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -days 9 -keyout /etc/ssl/o.key -out /etc/ssl/o.pem 2>/dev/null;"


def other_block(listen: str) -> str:
    """A command that writes a server block with that certificate, on one line."""
    block = f"server {{ listen {listen} ssl; ssl_certificate /etc/ssl/o.pem; ssl_certificate_key /etc/ssl/o.key; }}"
    return f'echo "{block}" | sed "s/HOST/$(hostname -I | cut -d" " -f1)/"'


# --- the way in ---------------------------------------------------------------------------------------------------------


def without_host_key(case: Case) -> dict[str, object]:
    return {"server": {"host": case.server.host}}


def known_at_last(case: Case) -> None:
    with KNOWN_HOSTS[case.certpilot.database_url].open("a") as file:
        file.write(case.server.known_hosts_line())


def user_without_rights(case: Case) -> None:
    case.server.run(["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", "deploy"])
    case.server.write("/etc/ssh/authorized_keys/deploy", f"{case.lab.worker_key.public}\n")


def as_deploy(case: Case) -> dict[str, object]:
    return {"server": {"host": case.server.host, "hostKey": case.server.host_key, "username": "deploy"}}


# --- programs on it -----------------------------------------------------------------------------------------------------


def other_program_on_port_80(case: Case) -> None:
    case.server.nginx.stop()
    argv = ["python3", "-m", "http.server", "80"]
    case.kept["program"] = case.server.cell.spawn(argv, log=case.server.log)
    case.server.wait(lambda: 80 in case.server.listening(), "the other program does not listen")


def nginx_on_port_80(case: Case) -> None:
    case.kept["program"].kill()
    case.server.nginx.start()


def nginx_restarted(case: Case) -> None:
    case.server.nginx.stop()
    case.server.nginx.start()


def own_certbot_at_work(case: Case) -> None:
    """`certbot renew`, as the server's timer runs it, in a hook that takes its time."""
    certbot_by_hand(
        case.lab, case.server, "certonly", "--webroot", "-w", f"/var/www/{case.domain}", "--cert-name", "other",
        "-d", case.domain,
    )  # fmt: skip
    argv = [
        "certbot", "renew", "--no-random-sleep-on-renew", "--force-renewal", "--pre-hook", "sleep 3600",
    ]  # fmt: skip
    case.kept["program"] = case.server.cell.spawn(argv, log=case.server.log)
    until(lambda: case.server.cell.processes("sleep"), seconds=60, what="certbot's hook")


def own_certbot_gone(case: Case) -> None:
    case.kept["program"].kill(signal.SIGKILL)


def ca_takes_its_time(case: Case) -> None:
    case.lab.ca.production.latency_of[case.server.host] = 0.7


def ca_is_quick_again(case: Case) -> None:
    case.lab.ca.production.latency_of.pop(case.server.host)


def certbot_killed(case: Case) -> None:
    wait_for_certbot(case)
    for pid in case.server.cell.processes("certbot"):
        os.kill(pid, signal.SIGKILL)


def certbot_and_its_parents_killed(case: Case) -> None:
    wait_for_certbot(case)
    (certbot,) = case.server.cell.processes("certbot")
    parent = int(Path(f"/proc/{certbot}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (parent, certbot):
        os.kill(pid, signal.SIGKILL)


TROUBLES = (
    Trouble(
        "nothing listens on the SSH port", Code.SERVER_UNREACHABLE,
        lambda case: case.server.block(22, how="reject"), lambda case: case.server.unblock(22),
        says=("{host}:22 refused the connection",), own_server=True,
    ),
    Trouble(
        "our key is not in authorized_keys", Code.SSH_AUTH_FAILED,
        moved_away("/etc/ssh/authorized_keys/root"), moved_back("/etc/ssh/authorized_keys/root"),
        says=("root@{host}:22 refused the key",), own_server=True,
    ),
    Trouble(
        "the host key is unknown", Code.HOST_KEY_MISMATCH, nothing, known_at_last,
        says=("{host}:22 shows", "no host key for {host} is known"), request=without_host_key,
    ),
    Trouble(
        "the user has no sudo rule", Code.PERMISSION_DENIED,
        user_without_rights, lambda case: case.lab.install_agent(case.server, "deploy"),
        says=("deploy@{host} could not run",), request=as_deploy, own_server=True,
    ),
    Trouble(
        "certbot is not installed", Code.CERTBOT_MISSING,
        moved_away("/usr/bin/certbot"), moved_back("/usr/bin/certbot"),
        says=("certbot is not on the server",), own_server=True,
    ),
    Trouble(
        "certbot's nginx plugin is not installed", Code.CERTBOT_PLUGIN_MISSING,
        moved_away(f"{PYTHON}/certbot_nginx"), moved_back(f"{PYTHON}/certbot_nginx"),
        says=("nginx plugin is not installed",), own_server=True,
    ),
    Trouble(
        "certbot crashes when it starts", Code.CERTBOT_BROKEN,
        moved_away(f"{PYTHON}/josepy"), moved_back(f"{PYTHON}/josepy"), attempts=1, own_server=True,
    ),
    Trouble(
        "certbot is older than our options", Code.CERTBOT_OUTDATED,
        written("/usr/local/bin/certbot", "#!/bin/sh\necho certbot 0.31.0\n", mode=0o755),
        removed("/usr/local/bin/certbot"), says=("certbot 0.31.0",), own_server=True,
    ),
    Trouble(
        "nginx is not installed", Code.NGINX_MISSING,
        moved_away("/usr/sbin/nginx"), moved_back("/usr/sbin/nginx"),
        says=("nginx is not on the server",), own_server=True,
    ),
    Trouble(
        "no server block has the name", Code.NO_MATCHING_VHOST,
        lambda case: case.server.nginx.remove_site(case.domain), lambda case: case.server.add_site(case.domain),
        says=("No server block of nginx has the name {domain}",),
    ),
    Trouble(
        "nginx refuses its configuration", Code.NGINX_CONFIG_BROKEN,
        written("/etc/nginx/conf.d/broken.conf", "servr {}\n"), removed("/etc/nginx/conf.d/broken.conf"),
        says=('unknown directive "servr" in /etc/nginx/conf.d/broken.conf:1',), own_server=True,
    ),
    Trouble(
        "certbot cannot read the site's file, nginx can", Code.NGINX_CONFIG_UNREADABLE,
        shell('printf "# caf\\351\\n" >>"/etc/nginx/sites-available/$1"'),
        shell('sed -i "/^# caf/d" "/etc/nginx/sites-available/$1"'),
        says=("certbot cannot read /etc/nginx/sites-enabled/{domain}", "Save it as UTF-8"), own_server=True,
    ),
    Trouble(
        "nginx has no file descriptor left for its new configuration", Code.NGINX_RELOAD_FAILED,
        shell('prlimit --pid "$(cat /run/nginx.pid)" --nofile=3:1024'),
        shell('prlimit --pid "$(cat /run/nginx.pid)" --nofile=1024:1024'),
        says=("nginx has it in its configuration for {domain} (/etc/nginx/sites-enabled/{domain}:", "reload failed"),
        attempts=1, orders=1, own_server=True,
    ),
    Trouble(
        # A socket for one address of port 443 keeps nginx from opening one for all of them while it runs.
        "nginx cannot open the port of its new configuration", Code.NGINX_RELOAD_FAILED,
        shell(f"{OTHER_CERTIFICATE} {other_block('127.0.0.1:443')} >{OTHER}; nginx -s reload"),
        nginx_restarted,
        says=("nginx has it in its configuration for {domain}", "reload failed"),
        attempts=1, orders=1, own_server=True,
    ),
    Trouble(
        "another program holds port 80", Code.PORT_80_IN_USE, other_program_on_port_80, nginx_on_port_80,
        says=("Port 80 of the server is held by python3",), own_server=True,
    ),
    Trouble(
        "the disk is nearly full", Code.DISK_FULL,
        shell("dd if=/dev/zero of=/var/fill bs=1M count=60 status=none"), removed("/var/fill"),
        says=("The server's disk is full: /etc/letsencrypt has",), own_server=True, disk_megabytes=150,
    ),
    Trouble(
        "the disk has no byte left", Code.DISK_FULL,
        shell("dd if=/dev/zero of=/var/fill bs=64k status=none 2>/dev/null || true"), removed("/var/fill"),
        says=("No space left on device",), own_server=True, disk_megabytes=120,
    ),
    Trouble(
        "the file system is read-only", Code.FILESYSTEM_UNUSABLE,
        shell("mount --bind /var/lib /var/lib && mount -o remount,bind,ro /var/lib"), shell("umount /var/lib"),
        says=("Read-only file system",), own_server=True,
    ),
    Trouble(
        "certbot's own folder is read-only", Code.FILESYSTEM_UNUSABLE,
        shell("mount --bind /etc/letsencrypt /etc/letsencrypt && mount -o remount,bind,ro /etc/letsencrypt"),
        shell("umount /etc/letsencrypt"), attempts=1, own_server=True,
    ),
    Trouble(
        # A machine has one clock for all its namespaces: the server's word for the time is changed instead.
        "the clock is an hour ahead", Code.CLOCK_SKEW,
        written("/usr/local/bin/date", '#!/bin/sh\nexec /usr/bin/date -d "+1 hour" "$@"\n', mode=0o755),
        removed("/usr/local/bin/date"),
        says=("s ahead. Turn on time synchronisation",), own_server=True,
    ),
    Trouble(
        "the server's own certbot is at work", Code.SERVER_BUSY, own_certbot_at_work, own_certbot_gone,
        own_server=True, orders=1, orders_after=2,
    ),
    Trouble(
        "certbot is killed", Code.INTERRUPTED, ca_takes_its_time, ca_is_quick_again,
        strike=certbot_killed, attempts=1, own_server=True,
    ),
    Trouble(
        "certbot is killed with what started it", Code.INTERRUPTED, ca_takes_its_time, ca_is_quick_again,
        strike=certbot_and_its_parents_killed, attempts=1, own_server=True,
    ),
    Trouble(
        "a firewall keeps the server from the CA", Code.CA_UNREACHABLE,
        lambda case: case.server.block(14000, how="reject", outgoing=True),
        lambda case: case.server.unblock(14000), attempts=1, own_server=True,
    ),
    Trouble(
        "the server does not trust the CA's own certificate", Code.CA_UNREACHABLE,
        moved_away("/etc/ssl/certs/ca-certificates.crt"), moved_back("/etc/ssl/certs/ca-certificates.crt"),
        attempts=1, own_server=True,
    ),
    Trouble(
        "another server block answers for the address on port 443", Code.NOT_SERVED,
        shell(f"{OTHER_CERTIFICATE} {{ {other_block('443')}; {other_block('HOST:443')}; }} >{OTHER}; nginx -s reload"),
        shell(f"sed -i 2d {OTHER}; nginx -s reload"),
        says=("the server block at /etc/nginx/conf.d/other.conf:2 answers for {domain} on port 443",),
        attempts=1, orders=1, own_server=True,
    ),
    Trouble(
        "certbot's files for the name are half there", Code.LINEAGE_BROKEN,
        shell('mkdir -p "/etc/letsencrypt/archive/$1"; echo >"/etc/letsencrypt/archive/$1/left.pem"'),
        removed("/etc/letsencrypt/archive/DOMAIN"),
        says=("/etc/letsencrypt/archive/{domain} is there",), own_server=True,
    ),
    Trouble(
        # certbot asks for its 50 MB and gets less, as on a server whose other programs have taken the memory.
        "there is not enough memory for certbot", Code.OUT_OF_MEMORY,
        written(f"{PYTHON}/small.pth", "import resource; resource.setrlimit(resource.RLIMIT_AS, (36 << 20, 36 << 20))\n"),
        removed(f"{PYTHON}/small.pth"), attempts=1, own_server=True,
    ),
    Trouble(
        "the site's block has a directive that certbot's own contradicts", Code.INSTALL_FAILED,
        shell(f"cp {PYTHON}/certbot/ssl-dhparams.pem /etc/ssl/own.pem;"
              ' sed -i "0,/server_name/s|server_name|ssl_dhparam /etc/ssl/own.pem; server_name|" "/etc/nginx/sites-available/$1"; nginx -s reload'),
        shell('sed -i "s|ssl_dhparam /etc/ssl/own.pem; ||" "/etc/nginx/sites-available/$1"; nginx -s reload'),
        attempts=1, orders=1, own_server=True,
    ),
    Trouble(
        "the whole server has another size for certbot's cache of sessions", Code.NGINX_CONFIG_BROKEN,
        written("/etc/nginx/conf.d/cache.conf", "ssl_session_cache shared:le_nginx_SSL:20m;\n"),
        removed("/etc/nginx/conf.d/cache.conf"), attempts=1, orders=1, own_server=True,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def stories(lab: Lab, postgres: PostgresServer, rabbit: RabbitNode, logs: Path) -> Iterator[dict[str, Story]]:
    known_hosts = logs / "known_hosts"
    known_hosts.touch()
    with (
        installed(lab, postgres, rabbit, template=TEMPLATE) as certpilot,
        borrowed_servers(lab) as servers,
        ca_clock_put_back(lab),
        all_roles(certpilot, logs / "roles.log", CERTPILOT_SSH_KNOWN_HOSTS_FILE=str(known_hosts)),
    ):
        KNOWN_HOSTS[certpilot.database_url] = known_hosts
        yield go_through(lab, certpilot, servers, TROUBLES)


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_servers_trouble_is_told_exactly_and_looked_at_again_in_a_minute(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_told(stories[trouble.name])


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_site_goes_through_by_itself_once_the_server_is_mended(
    stories: dict[str, Story], trouble: Trouble
) -> None:
    check_mended(stories[trouble.name])
