"""What a customer server of the lab has on its disk beside the machine's own system: plain text, no I/O.

Only what must be the same everywhere, or must not leak from the machine that the lab runs on, is written anew.
"""

# Folders of the machine that are empty on a server: its owner's sites, certificates and keys are not the lab's.
FORGET = (
    "/etc/letsencrypt/accounts",
    "/etc/letsencrypt/archive",
    "/etc/letsencrypt/csr",
    "/etc/letsencrypt/keys",
    "/etc/letsencrypt/live",
    "/etc/letsencrypt/renewal",
    "/etc/letsencrypt/renewal-hooks",
    "/etc/nginx/conf.d",
    "/etc/nginx/sites-available",
    "/etc/nginx/sites-enabled",
    "/var/lib/certpilot",
    "/var/lib/letsencrypt",
    "/var/log/certpilot",
    "/var/log/letsencrypt",
    "/var/log/nginx",
    "/var/www",
)

SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile /etc/ssh/authorized_keys/%u .ssh/authorized_keys
# PAM would bring in the machine's own rules for sessions.
UsePAM no
UseDNS no
PrintMotd no
Subsystem sftp /usr/lib/openssh/sftp-server
"""

# As Debian and Ubuntu ship it, as far as a vhost or certbot's nginx plugin can notice.
NGINX_CONF = """\
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
include /etc/nginx/modules-enabled/*.conf;

events {
	worker_connections 768;
}

http {
	sendfile on;
	types_hash_max_size 2048;
	include /etc/nginx/mime.types;
	default_type application/octet-stream;
	ssl_protocols TLSv1.2 TLSv1.3;
	access_log /var/log/nginx/access.log;
	include /etc/nginx/conf.d/*.conf;
	include /etc/nginx/sites-enabled/*;
}
"""

NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"


def default_site(*, ipv6: bool) -> str:
    """Give the vhost that answers for every name that no other vhost has."""
    six = "\tlisten [::]:80 default_server;\n" if ipv6 else ""
    return (
        f"server {{\n\tlisten 80 default_server;\n{six}\tserver_name _;\n\troot /var/www/html;\n"
        "\tlocation / {\n\t\ttry_files $uri $uri/ =404;\n\t}\n}\n"
    )


def site(names: tuple[str, ...], root: str, *, ipv6: bool) -> str:
    """Give an ordinary vhost on port 80 that serves files from a root of its own."""
    six = "\tlisten [::]:80;\n" if ipv6 else ""
    return (
        f"server {{\n\tlisten 80;\n{six}\tserver_name {' '.join(names)};\n\troot {root};\n"
        "\tindex index.html;\n\tlocation / {\n\t\ttry_files $uri $uri/ =404;\n\t}\n}\n"
    )


def hosts(hostname: str, address: str) -> str:
    """Give /etc/hosts. Without its own name in it certbot's first run waits 10 s for a DNS answer."""
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{hostname}\n"


def resolv_conf(nameserver: str) -> str:
    """Give /etc/resolv.conf; the lab's DNS answers at once or not at all."""
    return f"nameserver {nameserver}\noptions timeout:2 attempts:1\n"


def unlocked_shadow(shadow: str) -> str:
    """Give /etc/shadow with root's password impossible instead of locked: sshd without PAM refuses a locked account."""
    lines = []
    for line in shadow.splitlines():
        fields = line.split(":")
        if fields[0] == "root":
            fields[1] = "*"
        lines.append(":".join(fields))
    return "\n".join(lines) + "\n"


def firewall(rules: list[str]) -> str:
    """Give the whole nftables ruleset, replacing what was there in one step. Rules end in a verdict."""
    inbound = "\n".join(
        f'    iifname != "lo" {rule.removeprefix("in ")}' for rule in rules if rule.startswith("in ")
    )
    outbound = "\n".join(
        f'    oifname != "lo" {rule.removeprefix("out ")}' for rule in rules if rule.startswith("out ")
    )
    return (
        "flush ruleset\ntable inet lab {\n"
        f"  chain inbound {{\n    type filter hook input priority 0;\n{inbound}\n  }}\n"
        f"  chain outbound {{\n    type filter hook output priority 0;\n{outbound}\n  }}\n}}\n"
    )
