#!/bin/sh
# Prepares a customer's server for certpilot. As root, as often as you like: it brings the server to one and the same state.
#
#   install.sh [--user NAME] [--from PATTERN] [--no-packages] KEYFILE
#
# KEYFILE holds the worker's public key, or several, one a line (rotation: list the old and the new, later the new one).
#   --user NAME      the account that may log in (default certpilot); made where it is missing
#   --from PATTERN   accept the key from these addresses only, as in authorized_keys (203.0.113.7,198.51.100.0/24)
#   --no-packages    install no package
#
# The account can do nothing but run certpilot-agent through sudo: the key has a forced command and no tty, no
# forwarding, no sftp; the sudo rule names that one script. A server that is reached as root needs none of this.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
export PATH

AGENT=/usr/local/sbin/certpilot-agent
user=certpilot from='' packages=yes keyfile=''

say() { printf 'certpilot: %s\n' "$*"; }
die() { printf 'certpilot: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

# Replace a file only where it differs, whole or not at all. FILE MODE; the content comes on standard input.
put() {
  new=$(mktemp "${1%/*}/.certpilot.XXXXXX") # a dot in its name: sudo ignores it until it is renamed
  cat >"$new"
  chmod "$2" "$new"
  if cmp -s "$new" "$1" && [ "$(stat -c %a "$1")" = "$2" ]; then rm -f "$new"; else mv "$new" "$1" && say "wrote $1"; fi
}

while [ $# -gt 0 ]; do
  case $1 in
    --user) [ $# -gt 1 ] || usage; user=$2; shift 2 ;;
    --from) [ $# -gt 1 ] || usage; from=$2; shift 2 ;;
    --no-packages) packages=no; shift ;;
    -*) usage ;;
    *) [ -z "$keyfile" ] || usage; keyfile=$1; shift ;;
  esac
done
[ -n "$keyfile" ] || usage
case $user in root) die 'root needs no sudo rule: put the key into its authorized_keys' ;; *[!a-z0-9_-]* | [!a-z_]* | '') die "not a user name: $user" ;; esac
case $from in *[!A-Za-z0-9.:,/*?!-]*) die "not a list of addresses: $from" ;; esac
[ "$(id -u)" = 0 ] || die 'run this as root'
[ -r "$keyfile" ] || die "cannot read $keyfile"
script=$(dirname "$0")/certpilot-agent.sh
[ -s "$script" ] || die "certpilot-agent.sh has to lie beside $0 (it is workers/edges/server/certpilot-agent.sh)"

# Only the type and the key are taken: options in the file would stand beside ours.
options="restrict,command=\"/usr/bin/sudo -n $AGENT\""
[ -z "$from" ] || options="from=\"$from\",$options"
keys=$(awk -v "options=$options" '
  /^[[:space:]]*(#|$)/ { next }
  $1 ~ /^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521))$/ && $2 ~ /^[A-Za-z0-9+\/]+=*$/ { print options, $1, $2, "certpilot"; next }
  { exit 1 }' "$keyfile") || die "$keyfile is no list of public keys"
[ -n "$keys" ] || die "$keyfile holds no key"

# --- packages: only what is missing; a certbot from snap or pip is left as it is ----------------------------------------
wanted=''
command -v certbot >/dev/null || wanted="$wanted certbot"
certbot=$(readlink -f "$(command -v certbot || echo /usr/bin/certbot)")
[ "$certbot" != /usr/bin/certbot ] || [ -d /usr/lib/python3/dist-packages/certbot_nginx ] || wanted="$wanted python3-certbot-nginx"
command -v sudo >/dev/null || wanted="$wanted sudo"
command -v flock >/dev/null || wanted="$wanted util-linux"
command -v openssl >/dev/null || wanted="$wanted openssl"
if [ -n "$wanted" ]; then
  [ "$packages" = yes ] || die "missing:$wanted"
  command -v apt-get >/dev/null || die "missing:$wanted; install them with this system's own package manager, then run this again"
  say "installing$wanted"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 # one word a package
  apt-get -qq -o DPkg::Lock::Timeout=300 install -y $wanted >/dev/null ||
    { apt-get -qq -o DPkg::Lock::Timeout=300 update && apt-get -qq -o DPkg::Lock::Timeout=300 install -y $wanted >/dev/null; } ||
    die "could not install$wanted"
fi
command -v nginx >/dev/null || say 'note: nginx is not installed; certpilot needs it to serve the sites'

# --- the script ---------------------------------------------------------------------------------------------------------
mkdir -p "${AGENT%/*}"
put "$AGENT" 755 <"$script"
mkdir -p /var/lib/certpilot
chmod 700 /var/lib/certpilot

# --- the account --------------------------------------------------------------------------------------------------------
if ! id "$user" >/dev/null 2>&1; then
  useradd --system --create-home --home-dir "/home/$user" --shell /bin/sh "$user" # a forced command runs in the shell
  say "made the user $user"
fi
# A "!" in the password field refuses keys too where sshd does not use PAM; "*" has no password and lets keys in.
case $(getent shadow "$user" | cut -d: -f2) in '!'*) usermod -p '*' "$user" ;; esac

# --- the sudo rule ------------------------------------------------------------------------------------------------------
rule="# Written by certpilot's install.sh. The arguments of a forced command come in the variable.
Defaults:$user env_keep += \"SSH_ORIGINAL_COMMAND\", !requiretty, !use_pty
$user ALL=(root) NOPASSWD: $AGENT"
printf '%s\n' "$rule" | visudo -cqf - || die 'sudo refuses the rule'
mkdir -p /etc/sudoers.d
printf '%s\n' "$rule" | put "/etc/sudoers.d/certpilot-$user" 440

# --- the key: lines of ours are replaced, others stay -------------------------------------------------------------------
home=$(getent passwd "$user" | cut -d: -f6)
[ -d "$home/.ssh" ] || { mkdir -m 755 "$home/.ssh"; : >"$home/.ssh/authorized_keys"; } # root's: the account cannot change it
[ ! -L "$home/.ssh" ] && [ ! -L "$home/.ssh/authorized_keys" ] || die "$home/.ssh is a link"
others=$(grep -vF "sudo -n $AGENT\"" "$home/.ssh/authorized_keys" 2>/dev/null || true)
owner=$(stat -c %u:%g "$home/.ssh")
printf '%s\n' "$others" "$keys" | sed '/^$/d' | put "$home/.ssh/authorized_keys" 644
chown "$owner" "$home/.ssh/authorized_keys"

# --- does it work? ------------------------------------------------------------------------------------------------------
sudo -n -u "$user" -- sudo -n "$AGENT" version | grep -qx result=OK || die "$user cannot run $AGENT through sudo"
if loginctl --version >/dev/null 2>&1 && busctl get-property org.freedesktop.login1 /org/freedesktop/login1 \
  org.freedesktop.login1.Manager KillUserProcesses 2>/dev/null | grep -q true; then
  say "note: logind kills what a user leaves running (KillUserProcesses=yes): add $user to KillExcludeUsers, or certbot dies with the connection"
fi
say "ready: certpilot may log in as $user"
