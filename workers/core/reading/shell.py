"""What stands before certbot: SSH, sudo, the shell, package managers, and what ends it: the kernel, signals.

Sources: OpenSSH `sshconnect.c`, `sshconnect2.c`, `packet.c`, `kex.c`, `clientloop.c`; paramiko `ssh_exception.py`,
`client.py`, `transport.py`; ansible's `UNREACHABLE!`; sudo `plugins/sudoers/{auth,check,logging,policy}.c`; dash, bash
and busybox; apt-pkg `error`s, dpkg, snapd; Linux `mm/oom_kill.c`; wget and curl; util-linux `nologin`.
"""

from collections.abc import Iterator

from contracts.codes import Code
from workers.core.reading.lines import Document
from workers.core.reading.phrases import squeeze
from workers.core.reading.values import Hit, Row, Stage, Table, Weight

_S = Stage

_CRON = ("cron<", "x-cron-env:", "cron[", ")cmd(")
"""cron's own words: in its mails, and in syslog before a command."""

SSH = Table(
    "ssh",
    ("ssh", "publickey", "hostkey", "hostidentification", "kex_", "closedbyremotehost", "authentication", "port22",
     "known_hosts", ":22:", "unreachable!"),
    (
        Row(
            ("remote host identification has changed", "host key verification failed", "host key is known for",
             "not found in known_hosts", "host key for server {} does not match", "possible dns spoofing detected",
             "authenticity of host {} can't be established", "key_verify_failed", "host key for {} has changed"),
            Code.HOST_KEY_MISMATCH, _S.REACH, "OpenSSH sshconnect.c; paramiko client.py RejectPolicy, BadHostKeyException",
        ),
        Row(
            ("permission denied (publickey", "permission denied (password", "permission denied (keyboard",
             "permission denied (gssapi", "too many authentication failures", "no authentication methods available",
             "paramiko.ssh_exception.authenticationexception", "authentication failed.", "bad authentication type",
             "unprotected private key file", "no supported authentication methods", "no more authentication methods",
             "private key file is encrypted", "not a valid openssh private key file", "auth fail", "sign_and_send_pubkey:"),
            Code.SSH_AUTH_FAILED, _S.REACH, "OpenSSH sshconnect2.c, authfile.c; paramiko ssh_exception.py",
            unless=("sudo:pam_unix",), not_that="no fault of the folder that the file was to be put into",
        ),
        Row(
            ("ssh: connect to host", "ssh: could not resolve hostname", "kex_exchange_identification:", "ssh_exchange_identification:",
             "error reading ssh protocol banner", "unable to connect to port 22", ":22: i/o timeout", ":22: connect:", "unable to connect to port {n} on",
             "connection closed by {} port 22", "connection reset by {} port 22",
             "connection to {} closed by remote host", "connection timed out during banner exchange", "port 22: connection",
             "client_loop: send disconnect", "timeout, server {} not responding", "banner exchange:",
             "no matching key exchange method found", "no matching host key type found", "ssh session not active"),
            Code.SERVER_UNREACHABLE, _S.REACH, "OpenSSH sshconnect.c, packet.c; paramiko transport.py",
        ),
        Row(
            ("failed to connect to the host via ssh", "lost connection"),
            Code.SERVER_UNREACHABLE, _S.REACH, "ansible; scp: what they say of every failure of ssh, whose own words come with it",
            weight=Weight.CONSEQUENCE,
        ),
    ),
)  # fmt: skip

SUDO = Table(
    "sudo",
    ("sudo", "su:", "password", "notavailable", "sorry,", "doas", "notallowedto"),
    (
        Row(
            ("a password is required", "a terminal is required to read the password", "no tty present and no askpass program",
             "you must have a tty to run sudo", "is not in the sudoers file", "is not allowed to execute", "is not allowed to run sudo",
             "sudo: command not found", "sudo: not found", "incorrect password attempt", "sorry, try again", "may not run sudo on",
             "this account is currently not available", "su: authentication failure", "sudo: sorry, user", "no password was provided",
             "must be owned by uid 0 and have the setuid bit set", '"no new privileges" flag is set', "doas: operation not permitted",
             "sudo: account validation failure", "no está en el archivo sudoers", "ist nicht in der sudoers-datei",
             "n'apparaît pas dans le fichier sudoers", "non è nel file sudoers", "не входит в файл sudoers", "sudo: pam authentication error", "unable to change to root gid"),
            Code.PERMISSION_DENIED, _S.START, "sudo plugins/sudoers, src/sudo.c since 1.8; util-linux nologin",
            not_that="no failed SSH log-in: the log-in itself worked",
        ),
    ),
)  # fmt: skip

SHELL = Table(
    "shell",
    (),
    (
        Row(
            ("certbot: command not found", "certbot: not found", "certbot-auto: command not found", "certbot-auto: not found",
             "letsencrypt: command not found", "letsencrypt: not found", "letsencrypt-auto: command not found",
             "/certbot: no such file or directory", "/certbot-auto: no such file or directory", "command not found: certbot",
             "unknown command: certbot", "command 'certbot' not found", "unable to locate package certbot", "python: no module named certbot", "python{n}: no module named certbot", "python{n}.{n}: no module named certbot",
             "package 'certbot' has no installation candidate", "package 'python-certbot-nginx' has no installation candidate",
             "no package certbot available", "unable to find a match: certbot", "spawning /usr/bin/certbot: no such file",
             'exec: "certbot": executable file not found', "failed to find required executable certbot", "status=203/exec",
             "no such file or directory: 'certbot'", "certbot: kommando nicht gefunden", "certbot: commande introuvable",
             "certbot : commande introuvable", "certbot: orden no encontrada", "certbot: comando non trovato",
             "certbot: no se encontró la orden", "certbot: команда не найдена", "certbot: 未找到命令", "certbot: comando não encontrado",
             "certbot: nie znaleziono polecenia", "package certbot is not available", "package certbot is not installed",
             "is not recognized as an internal or external command", 'snap "certbot" is not installed'),
            Code.CERTBOT_MISSING, _S.START, "bash execute_cmd.c, dash, zsh, busybox; apt, dnf, yum; systemd exec; docker",
            not_that="no issued certificate, whatever the script around it goes on to say", unless=(*_CRON, "certbot_nginx"),
        ),
        Row(
            ("unable to locate package python3-certbot-nginx", "unable to locate package python-certbot-nginx",
             "package 'python3-certbot-nginx' has no installation candidate", "unable to find a match: python3-certbot-nginx",
             "no package python2-certbot-nginx available", "no package python3-certbot-nginx available"),
            Code.CERTBOT_PLUGIN_MISSING, _S.START, "apt, dnf and yum",
        ),
        Row(
            ("nginx: command not found", "nginx: not found", "command not found: nginx", "command 'nginx' not found",
             "unit nginx.service not found", "unit nginx.service could not be found", "nginx.service does not exist",
             "nginx: unrecognized service", "nginx.service not loaded", "/nginx: no such file or directory", "unable to locate package nginx",
             "no such file or directory: 'nginx'", "could not find the requested service nginx"),
            Code.NGINX_MISSING, _S.PLUGIN, "shells; systemctl; sysvinit service(8); ansible",
        ),
        Row(
            ("bad interpreter", "not found (required by", "error while loading shared libraries", "exec format error", "symbol lookup error",
             "cannot communicate with server", "cannot perform the following tasks", "snap-confine has elevated permissions",
             "snap-confine", "unmet dependencies", "dpkg was interrupted", "text file busy", "illegal instruction",
             "segmentation fault", "core dumped", "fetching certbot snap plugins", "cannot find tracking cgroup",
             "the certbot plugin errored while loading", "plugin errored while loading"),
            Code.CERTBOT_BROKEN, _S.START, "Linux exec, ld.so, snapd cmd/snap-confine, apt; certbot snap_config.py, plugins/disco.py",
        ),
        Row(
            ("could not get lock /var/lib/", "dpkg frontend lock", "unable to acquire the dpkg", "unable to lock the administration directory",
             "unable to lock directory /var/lib/apt", "another app is currently holding the yum lock", "waiting for cache lock"),
            Code.SERVER_BUSY, _S.START, "apt-pkg, dpkg, yum", says="Another package manager is at work on this server.",
        ),
        Row(
            ("is not yet valid", "issued certificate not yet valid", "certificate is not yet valid", "is not valid yet (invalid for another", "certificate activation time", "not yet activated", "clock probably jumped"),
            Code.CLOCK_SKEW, _S.START, "OpenSSL X509_V_ERR_CERT_NOT_YET_VALID; wget, GnuTLS; apt: Release file is not valid yet",
            says="This server's clock is behind: a certificate that is valid looks to it as if it were not valid yet.",
        ),
    ),
)  # fmt: skip

KERNEL = Table(
    "kernel",
    (),
    (
        Row(
            ("killed",),
            Code.OUT_OF_MEMORY, _S.START, "bash prints Killed for SIGKILL; on a server that is the kernel's OOM killer", line=True,
            not_that="no fault of certbot: it was ended from outside while it ran",
        ),
        Row(
            (": line {n}: {n} killed", "out of memory: kill", "oom-killer", "oom-kill:", "oom_reaper:", "oom killer", "cannot allocate memory", "memoryerror",
             "memory cgroup out of memory", "virtual memory exhausted", "status=9/kill", "out of memory", "result 'oom-kill'",
             "cannot fork", "fork: retry: resource temporarily unavailable"),
            Code.OUT_OF_MEMORY, _S.START, "Linux mm/oom_kill.c; ENOMEM; Python MemoryError; systemd",
        ),
        Row(
            ("terminated", "hangup"),
            Code.INTERRUPTED, _S.START, "bash prints Terminated for SIGTERM, Hangup for SIGHUP", whole=True,
        ),
        Row(
            ("brokenpipeerror", "errno 32]", "received signal 15", "sending sigterm to remaining processes", "-- reboot --", "the system is going down",
             "the system will reboot now", "reached target reboot", "reached target shutdown", "received sigterm", "sigterm received",
             "status=15/term", "signal: terminated", "client_loop: disconnected", "encountered signal:", "exited due to signal"),
            Code.INTERRUPTED, _S.START, "certbot error_handler.py; Python at a closed pipe (FACTS-certbot 4.3); systemd, shutdown(8)",
        ),
    ),
)  # fmt: skip

STORAGE = Table(
    "file system",
    (),
    (
        Row(
            ("no space left on device", "disk quota exceeded", "not enough space on the disk", "not enough free space",
             "auf dem gerät ist kein speicherplatz mehr verfügbar", "aucun espace disponible sur le périphérique",
             "no queda espacio en el dispositivo", "spazio esaurito sul device", "não há espaço disponível no dispositivo",
             "на устройстве не осталось свободного места", "brak miejsca na urządzeniu", "geen ruimte meer over op apparaat"),
            Code.DISK_FULL, _S.SAVE, "Linux ENOSPC, EDQUOT",
        ),
        Row(
            ("read-only file system", "das dateisystem ist nur lesbar", "système de fichiers accessible en lecture seulement",
             "sistema de ficheros de sólo lectura", "файловая система доступна только для чтения", "input/output error", "i/o error", "structure needs cleaning", "stale file handle",
             "transport endpoint is not connected", "remounting filesystem read-only", "ext4-fs error"),
            Code.FILESYSTEM_UNUSABLE, _S.SAVE, "Linux EROFS, EIO, EUCLEAN, ESTALE, ENOTCONN",
            not_that="no missing right, although certbot adds its advice about root",
        ),
        Row(
            ("permission denied", "keine berechtigung", "permission non accordée", "permiso denegado", "permesso negato",
             "permissão negada", "отказано в доступе", "brak dostępu", "toegang geweigerd"),
            Code.PERMISSION_DENIED, _S.START, "Linux EACCES in glibc's languages, by a shell or a program", weight=Weight.CONSEQUENCE, unless=("denied(publickey",),
        ),
    ),
)  # fmt: skip

_HEADS: tuple[tuple[str, Row], ...] = (
    ("sudo: ", Row((), Code.PERMISSION_DENIED, _S.START, "sudo src/sudo.c: it says its name before every refusal", weight=Weight.CRASH)),
    ("ssh: ", Row((), Code.SERVER_UNREACHABLE, _S.REACH, "OpenSSH log.c: errors before a session stands", weight=Weight.CRASH)),
    ("paramiko.ssh_exception.", Row((), Code.SERVER_UNREACHABLE, _S.REACH, "paramiko ssh_exception.py", weight=Weight.CRASH)),
    ("requests.exceptions.", Row((), Code.CA_UNREACHABLE, _S.ACCOUNT, "requests exceptions.py", weight=Weight.CRASH)),
    ("urllib3.exceptions.", Row((), Code.CA_UNREACHABLE, _S.ACCOUNT, "urllib3 exceptions.py", weight=Weight.CRASH)),
)  # fmt: skip
"""Speakers that say their own name: what they say in words that no row knows is still theirs."""

_HARMLESS = ("sudo: unable to resolve host", "sudo: setrlimit", "ssh: warning")


def head_hits(document: Document) -> Iterator[Hit]:
    """Read lines that begin with the name of who says them."""
    if not any(squeeze(head) in document.squeezed for head, _ in _HEADS):
        return
    for line in document.lines:
        for head, row in _HEADS:
            if line.text.startswith(head) and not line.text.startswith(_HARMLESS):
                yield Hit(row, line.start, line.start + len(squeeze(line.text)), speaker=head)
