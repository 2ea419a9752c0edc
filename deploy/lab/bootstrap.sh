#!/bin/bash
# Prepares this machine, as far as anything is missing: `bootstrap.sh venv` makes .venv from requirements.lock,
# `bootstrap.sh lab` also installs the system packages that the lab's parts are. Debian 12 and 13, Ubuntu 24.04 on.
# No service of a package is started or left enabled, and PostgreSQL's example cluster is not made: this may be
# somebody's workstation. Safe to interrupt and to run twice, also at the same time.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly mode=${1:?venv or lab}
readonly mark='certpilot lab bootstrap'
readonly policy=/usr/sbin/policy-rc.d
# There from the start of an installation to its good end: what was enabled before. Found again, it was interrupted.
readonly state=/var/tmp/certpilot-lab-bootstrap
readonly no_cluster=/etc/postgresql-common/createcluster.d/certpilot-lab.conf
readonly wait_seconds=600 # for another run, or for apt's lock (a new cloud machine upgrades itself first)
export LC_ALL=C.UTF-8

say() { echo "bootstrap: $*" >&2; }
die() { say "$@"; exit 1; }

# A program or folder that shows the package to be there, and the package. It is the program that counts: a broker or
# a database from its maker's own repository serves as well.
readonly wanted='
/usr/lib/rabbitmq/bin/rabbitmq-server        rabbitmq-server
/usr/lib/postgresql/*/bin/initdb             postgresql
/usr/sbin/nginx                              nginx
/usr/bin/certbot                             certbot
/usr/sbin/cron                               cron
/usr/lib/python3/dist-packages/certbot_nginx python3-certbot-nginx
/usr/bin/pebble                              pebble
/usr/bin/pebble-challtestsrv                 pebble
/usr/sbin/sshd                               openssh-server
/usr/bin/sudo                                sudo
/usr/sbin/ip                                 iproute2
/usr/sbin/nft                                nftables
/usr/bin/openssl                             openssl
/usr/bin/curl                                curl
/usr/sbin/update-ca-certificates             ca-certificates'

missing_packages() {
  local pattern package
  while read -r pattern package; do
    [[ -z $pattern ]] || compgen -G "$pattern" >/dev/null || echo "$package"
  done <<<"$wanted" | sort -u
}

# What no package can bring is said before anything is changed.
require_machine() {
  [[ $(uname -s) == Linux ]] || die "the lab needs Linux (namespaces, overlay); this is $(uname -s)"
  [[ $(id -u) == 0 ]] || die "the lab needs root, for network namespaces and mounts; try: sudo make …"
  local refusal
  refusal=$(unshare --pid --fork --mount --net --uts --ipc true 2>&1) ||
    die "the lab needs to make Linux namespaces, which this machine refuses (a container without privileges?): $refusal"
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
    die "the lab needs the overlay file system, which this kernel does not have"
}

# --- system packages -----------------------------------------------------------------------------------------------

# Units of the packages above, as `systemctl enable` links them. Others are none of our business.
enabled_units() {
  find /etc/systemd/system -type l 2>/dev/null | sort |
    grep -E '/(certbot|cron|epmd|nftables|nginx|postgresql|rabbitmq-server|ssh|sshd|sshd-keygen)[.@][^/]*$' || true
}

# An interrupt gets here only when dpkg has finished the packages in hand; what a killed run left, the next one removes.
clean_up() {
  local link
  if [[ -f $state/enabled ]]; then
    while read -r link; do rm -f "$link"; done < <(enabled_units | comm -13 "$state/enabled" -)
  fi
  if grep -qs "$mark" "$policy"; then rm -f "$policy"; fi
  rm -f "$no_cluster"
  rmdir --ignore-fail-on-non-empty "${no_cluster%/*}" "${no_cluster%/*/*}" 2>/dev/null || true
}

# apt waits for dpkg's lock by itself, but not for the lock on its lists.
apt() {
  local until=$((SECONDS + wait_seconds))
  while ! apt-get -y -q -o DPkg::Lock::Timeout=$wait_seconds -o APT::Keep-Downloaded-Packages=false \
    -o Dpkg::Options::=--force-confold --no-install-recommends "$@" >"$apt_log" 2>&1; do
    grep -q 'Could not get lock' "$apt_log" && ((SECONDS < until)) || return 1
    sleep 2
  done
}

install_packages() {
  command -v apt-get >/dev/null || die "missing here: $*; they can be installed by themselves on Debian and Ubuntu only"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir -p "$state"
  apt_log=$state/log
  [[ -f $state/enabled ]] || { enabled_units >"$state/new" && mv "$state/new" "$state/enabled"; }
  say "installing $* (once; their services stay off)"
  # invoke-rc.d and deb-systemd-invoke ask this program whether a service may start; 101 is "no".
  [[ -e $policy ]] || install -m 0755 /dev/stdin "$policy" <<<$'#!/bin/sh\n'"# $mark"$'\nexit 101'
  mkdir -p "${no_cluster%/*}"
  echo 'create_main_cluster = false' >"$no_cluster"
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  dpkg --configure -a >"$apt_log" 2>&1 || true # what an interrupted run left half done
  # Lists that are missing or too old show as a failed install: only then are they fetched.
  if ! apt install "$@"; then
    apt update || say "apt-get update: $(grep -E '^[EW]:' "$apt_log" | head -n 3)"
    apt install "$@" || { tail -n 25 "$apt_log" >&2; die "apt-get install failed"; }
  fi
  clean_up
  rm -rf "$state"
  trap - EXIT INT TERM HUP
}

# --- .venv ---------------------------------------------------------------------------------------------------------

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c "$1" >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

fingerprint() { cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1; }

venv_is_current() {
  [[ -x .venv/bin/python && -f .venv/certpilot.stamp ]] && [[ $(<.venv/certpilot.stamp) == "$(fingerprint)" ]]
}

pip() {
  local said
  said=$(.venv/bin/python -m pip --disable-pip-version-check --no-input -q install "$@" 2>&1) || die "pip install $*: $said"
}

make_venv() {
  local python version='import sys; assert sys.version_info >= (3, 11)'
  say "making .venv"
  if ! .venv/bin/python -c "$version" >/dev/null 2>&1; then
    rm -rf .venv
    python=$(find_python "$version; import ensurepip, venv") || die "no Python 3.11 or newer with its venv module here"
    "$python" -m venv .venv
  fi
  pip --require-hashes -r requirements.lock
  pip --no-deps --no-build-isolation -e .
  fingerprint >.venv/certpilot.stamp
}

main() {
  local packages=()
  if [[ $mode == lab ]]; then
    require_machine
    mapfile -t packages < <(missing_packages)
    # Half installed is not installed: programs can be there whose packages were never configured.
    if [[ -e $state ]]; then mapfile -t packages < <(awk 'NF { print $2 }' <<<"$wanted" | sort -u); fi
  fi
  # Only the distribution's own Python keeps these modules in a package of its own.
  if [[ ! -x .venv/bin/python ]] && ! find_python 'import ensurepip, venv' >/dev/null; then
    packages+=(python3-venv)
  fi
  if ((${#packages[@]} == 0)) && venv_is_current; then
    return
  fi
  # Two runs at once, of one clone or of several, take turns. 9>&-: what is started must not hold the lock.
  exec 9>"${TMPDIR:-/tmp}/certpilot-bootstrap.$UID.lock"
  flock -w $wait_seconds 9 || die "another bootstrap has been running for $wait_seconds s"
  if ((${#packages[@]})); then
    [[ $(id -u) == 0 ]] || die "missing here: ${packages[*]}; install them, or run this as root once"
    install_packages "${packages[@]}" 9>&-
    [[ $mode == venv || -z $(missing_packages) ]] || die "still missing: $(missing_packages | xargs)"
  fi
  venv_is_current || make_venv 9>&-
}

main
