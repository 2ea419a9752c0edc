#!/bin/sh
# certpilot-agent: all that certpilot does on a customer's server, it does through this script, as root.
#
#   look    FENCE JOB ATTEMPT [NAME]         state of the attempt; last of all the certificate live/NAME/cert.pem
#   start   FENCE JOB ATTEMPT KEY=VALUE…     start certbot for this attempt, detached and once, or attach to it
#   void    FENCE JOB ATTEMPT                see to it that this attempt never starts
#   stop    FENCE JOB ATTEMPT                TERM to its certbot
#   collect FENCE JOB ATTEMPT                what its certbot printed and logged
#   clean   FENCE JOB ATTEMPT                remove the directories of the attempts 1 to ATTEMPT
#   probe   FENCE JOB TOKEN webroot=DIR…     place a file where the CA's challenge would lie; its text is TOKEN.N for the
#   unprobe FENCE JOB TOKEN                  N-th DIR, so that whoever fetches it sees which one was served; remove it again
#   remove  FENCE JOB ATTEMPT NAME [revoke=yes]       take the lineage out of nginx, revoke it if asked, delete it
#   renewal FENCE JOB ATTEMPT NAME [before=N-UNIT]    see to it that this server renews by itself, so long before expiry
#   inspect [NAME…] [failure=NAME]           read only, without a fence: facts; why certbot last failed to renew NAME
#   served NAME | lineages | version         read only, without a fence
#
# The answer: lines key=value, and sections ("begin X", lines behind a "|", "end X"). Its last line is result=…, so
# that a cut answer is seen. No argument is ever printed back: nobody can write an answer of his own.
#
# What keeps two workers from hurting each other (each guard is atomic where it stands, none needs a clock):
#   fence      an older one is refused, whatever the verb; a newer one is on the disk before anything is looked at
#   directory  mkdir jobs/JOB.ATTEMPT decides, once and for ever, whether the attempt starts or is void
#   run lock   a kernel lock that certbot itself holds says whether it lives; a pid or a file would lie after a reboot
set -uf; umask 077 # -f: no word is ever taken for a pattern
export LC_ALL=C
NL='
'
# Whoever reaches root through us chooses no paths. The tests do, without sudo and without a forced command.
[ -z "${SUDO_COMMAND:-}${SUDO_USER:-}${SSH_ORIGINAL_COMMAND:-}" ] || unset CERTPILOT_HOME CERTPILOT_LETSENCRYPT CERTPILOT_LOGS CERTPILOT_ROOT
[ -n "${CERTPILOT_HOME:-}" ] || PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
export PATH
unset TMPDIR # certbot's early log is looked for in /tmp
H=${CERTPILOT_HOME:-/var/lib/certpilot} LE=${CERTPILOT_LETSENCRYPT:-/etc/letsencrypt} LOGS=${CERTPILOT_LOGS:-/var/log/certpilot} ROOT=${CERTPILOT_ROOT:-}
KEEP_BYTES=262144    # of each output: a database row takes it, and the reason stands at the end
CONFIG_BYTES=4194304 # of nginx -T: the panels of hosting firms with thousands of vhosts go beyond
FAILURE_BYTES=49152  # of a failed renewal's log: its end, where the reason stands
LOG_BYTES=2097152    # of each log that is searched for it; certbot begins a new one at 1 MiB, Debian once a week
LOG_FILES=20         # so many, newest first

say() { printf '%s\n' "$@"; }
fact() { printf '%s=%s\n' "$1" "${2%%"$NL"*}"; }
section() { say "begin $1"; awk '{ print "|" $0 }'; say "end $1"; }
finish() { say "result=$1"; exit "${2:-0}"; }
usage() { fact what "$1"; finish USAGE 2; }
die() { # a shell's own printf calls a full disk an "I/O error", so we look
  fact what "$1"
  [ -w "$H" ] || [ ! -d "$H" ] || say 'cause=Read-only file system'
  { df -Pk "$H"; df -Pi "$H"; } 2>/dev/null | awk '$2 > 0 && $4 ~ /^[0-9]+$/ && $4 < 16 { print "cause=No space left on device"; exit }'
  finish ERROR 1
}

is_number() { case $1 in '' | *[!0-9]* | 0?* | ???????????????????*) return 1 ;; esac; }
is_word() { case $1 in '' | -* | *[!A-Za-z0-9_-]*) return 1 ;; esac; [ ${#1} -le 128 ]; }
is_host() { case $1 in *[!a-z0-9.-]* | *..* | *.-* | *-.* | [.-]* | *[.-]) return 1 ;; *.*) [ ${#1} -le 253 ] ;; *) return 1 ;; esac; }
is_key() { case $1 in '' | *[!A-Za-z0-9_-]*) return 1 ;; esac; [ ${#1} -ge 16 ] && [ ${#1} -le 512 ]; }
is_path() { case $1 in *[[:cntrl:]]*) return 1 ;; /*) [ ${#1} -le 4096 ] ;; *) return 1 ;; esac; }
is_url() {
  case $1 in *[!A-Za-z0-9._~:/?\&=%+,-]* | *://[/-]*) return 1 ;; http://?* | https://?*) [ ${#1} -le 2048 ] ;; *) return 1 ;; esac
}
is_email() {
  case $1 in *[!A-Za-z0-9._%+=@-]* | [!A-Za-z0-9]* | *@*@* | *@[.-]* | *[.-]) return 1 ;; ?*@?*.?*) [ ${#1} -le 254 ] ;; *) return 1 ;; esac
}

# --- liveness and status ---------------------------------------------------------------------------------------------
alive() { [ -e "$d/lock" ] && ! flock -n "$d/lock" true; } # this attempt's run
any_run() { ! flock -n "$H/run.lock" true; }               # any run of ours
oom_kills() { sed -n 's/^oom_kill //p' /proc/vmstat; }     # by the kernel, for want of memory
# certbot's own lock is fcntl, which flock(1) does not see. Only the inode is compared: an overlay shows another device.
certbot_busy() { inode=$(stat -c %i "$LE/.certbot.lock" 2>/dev/null) && grep -q "POSIX.*:$inode " /proc/locks; }

status() { # the lock first, then the files: a run that ends in between is seen as ENDED, never as DEAD
  if alive; then
    say run=ALIVE
    grep -Eq '^(Deploying certificate|Successfully received certificate)' "$d/out" 2>/dev/null && say stage=installing || say stage=requesting
  elif [ ! -d "$d" ]; then say run=ABSENT
  elif [ -e "$d/void" ]; then say run=VOID
  elif [ -s "$d/exit" ]; then
    say run=ENDED "exit=$(cat "$d/exit")"
    [ "$(oom_kills)" -gt "$(cat "$d/oom" 2>/dev/null)" ] 2>/dev/null && say oom=yes # else a person sent the KILL
  else
    say run=DEAD; rm -f "$d/eab.ini"
    [ -e "$d/begun" ] || say begun=no # certbot was never started, so nothing was ordered
    [ "$(cat "$d/boot" 2>/dev/null)" = "$(cat /proc/sys/kernel/random/boot_id)" ] || say rebooted=yes
  fi
}

look() {
  [ $# -eq 0 ] || { [ $# -eq 1 ] && is_host "$1"; } || usage name
  status
  ! alive && any_run && say other=yes
  certbot_busy && say certbot=busy
  # Last of all: a certificate that is read before liveness misses the one issued in between.
  [ $# -eq 0 ] || [ ! -r "$LE/live/$1/cert.pem" ] || section certificate <"$LE/live/$1/cert.pem"
  finish OK
}

# --- the run ---------------------------------------------------------------------------------------------------------
# The caller says what is to happen; certbot's command line is built here, so that a sudo rule for this script gives
# nobody more than certificates. The words are taken off the front of "$@", what they mean is put on its back.
start() {
  action='' server='' email='' name='' auth='' redirect='' force=no account='' keytype='' profile='' eab='' root='' roots=0 names=0 left=$#
  while [ "$left" -gt 0 ]; do
    word=$1 value=${1#*=} left=$((left - 1)); shift
    case $word in
      action=run | action=certonly | action=install | action=dryrun) action=$value ;;
      auth=webroot | auth=nginx) auth=$value ;;
      redirect=yes | redirect=no) redirect=$value ;;
      force=yes | force=no) force=$value ;;
      keytype=rsa | keytype=ecdsa) keytype=$value ;;
      server=*) is_url "$value" && server=$value || usage server ;;
      email=*) is_email "$value" && email=$value || usage email ;;
      name=*) is_host "$value" && name=$value || usage name ;;
      account=*) is_word "$value" && account=$value || usage account ;;
      profile=*) is_word "$value" && profile=$value || usage profile ;;
      eab=*) is_word "$value" && eab=$value || usage eab ;;
      webroot=*) is_path "$value" && root=$value || usage webroot ;;
      domain=*)
        is_host "$value" || usage domain
        [ -z "$root" ] || { set -- "$@" -w "$root"; roots=$((roots + 1)); }
        set -- "$@" -d "$value"
        names=$((names + 1)) root='' ;;
      *) usage 'a word of start' ;;
    esac
  done
  [ -n "$name" ] && [ "$names" -gt 0 ] || usage 'name or domain'
  [ -z "$eab" ] || is_key "$secret" || usage 'the key of eab'
  # Each name brings its own root: one that is shared fails the name of another vhost.
  case $auth in webroot) [ "$roots" -eq "$names" ] ;; *) [ "$roots" -eq 0 ] ;; esac || usage webroot
  # With webroot nothing waits for a reload of nginx. With the nginx authenticator its default sleep must stay, or the
  # CA asks before the reload has taken effect.
  case $action:$auth in
    run:webroot) set -- run -a webroot -i nginx --nginx-sleep-seconds 0 "$@" ;;
    run:nginx) set -- run -a nginx -i nginx "$@" ;;
    certonly:?* | dryrun:?*) set -- certonly -a "$auth" "$@" ;;
    install:) set -- install -i nginx --nginx-sleep-seconds 0 "$@" ;;
    *) usage action ;;
  esac
  # Never -q, which hides the reason. The log directory is fixed per lineage, since certbot writes it into the renewal
  # file; its ten newest logs are kept, each of one run.
  set -- "$@" -n --agree-tos --cert-name "$name" --logs-dir "$LOGS/$name" --max-log-backups 10
  case $action:$redirect in
    run:yes | install:yes) set -- "$@" --redirect ;;
    run:no | install:no) set -- "$@" --no-redirect ;;
    run: | install:) usage redirect ;;
  esac
  if [ "$action" != install ]; then
    [ -n "$server" ] || usage server
    set -- "$@" --server "$server" --renew-with-new-domains
    [ "$force" = yes ] && set -- "$@" --force-renewal || set -- "$@" --keep-until-expiring
    [ -n "$email" ] && set -- "$@" --email "$email" || set -- "$@" --register-unsafely-without-email
    [ -z "$account" ] || set -- "$@" --account "$account"
    [ -z "$keytype" ] || set -- "$@" --key-type "$keytype"
    [ -z "$profile" ] || set -- "$@" --preferred-profile "$profile"
    # The key comes on standard input and goes to certbot in a file: argument lists are seen by every user of the server.
    [ -z "$eab" ] || set -- "$@" -c "$d/eab.ini"
    [ "$action" != dryrun ] || set -- "$@" --dry-run
  fi
  launch certbot "$@"
}

launch() {
  [ ! -d "$d" ] || { status; finish OK; }           # attach
  flock -n 8 || finish BUSY                         # taken here, inherited by the run; no directory is made
  mkdir -p "$LOGS" || die 'no log directory'
  mkdir "$d" || die 'no directory for the attempt'  # the decision
  command exec 7>>"$d/lock" && flock -n 7 || die 'no lock for the attempt'
  say "$name" >"$d/name" && say "$fence" >"$d/fence" && oom_kills >"$d/oom" && cat /proc/sys/kernel/random/boot_id >"$d/boot" &&
    { stat -c '%i %s' "$LOGS/$name/letsencrypt.log" 2>/dev/null || say '0 0'; } >"$d/log-offset" &&
    { [ -z "$eab" ] || say "eab-kid = $eab" "eab-hmac-key = $secret" >"$d/eab.ini"; } &&
    sync "$d/name" "$d/boot" "$d/log-offset" "$d" "$H/jobs" && cd "$d" || die 'the attempt could not be written to disk'
  # The run outlives us, the connection and a hang-up. It holds 7 and 8, already locked, so there is no gap in which it
  # looks dead; certbot keeps them to its end and gives them to none of its children. 9 stays ours. TERM is for certbot
  # alone: the wrapper waits for its exit code, which is on the disk whole or not at all.
  setsid sh -c '
    trap "" HUP; trap : TERM INT
    : >begun && sync begun . || exit 1
    sh -c '\''echo $$ >pid; umask 022; export LC_ALL=C.UTF-8; exec "$@"'\'' run "$@"
    code=$?; rm -f eab.ini
    printf "%s\n" "$code" >exit.new && sync exit.new && mv exit.new exit; sync .
  ' run "$@" 9>&- </dev/null >out 2>err &
  say run=ALIVE stage=requesting
  finish OK
}

void() {
  if mkdir "$d" 2>/dev/null; then : >"$d/void" && sync "$d/void" "$d" "$H/jobs" || die 'void was not written to disk'; fi
  [ -d "$d" ] || die 'no directory for the attempt'
  status
  finish OK
}

stop() { # only a process that holds this very lock is ours: after a reboot the pid may belong to a stranger
  p=$(cat "$d/pid" 2>/dev/null)
  if alive && is_number "$p" && [ "/proc/$p/fd/7" -ef "$d/lock" ]; then kill -TERM "$p" && say signalled=yes; fi
  finish OK
}

clean() {
  n=1
  while [ "$n" -le "$attempt" ]; do
    d=$H/jobs/$job.$n n=$((n + 1))
    alive || rm -rf "$d"
  done; finish OK
}

# What this run logged, oldest first. The log noted before the run was appended to (Debian's max-log-backups = 0) or
# moved aside (.1, .2 … with every start and every MiB); a file last written before the attempt is of another run.
debug_log() {
  read -r inode size <"$d/log-offset" && read -r name <"$d/name" || return
  log=$LOGS/$name/letsencrypt.log ours=''
  for f in "$log" "$log.1" "$log.2" "$log.3" "$log.4" "$log.5" "$log.6" "$log.7" "$log.8" "$log.9"; do
    [ -f "$f" ] && ! [ "$d/boot" -nt "$f" ] || break
    ours="${f#"$log"} $ours" # suffixes; that of the log itself is the empty one, which is last and needs no word
    [ "$(stat -c %i "$f")" != "$inode" ] || break
  done
  [ -z "$ours" ] || for n in $ours ''; do
    if [ "$(stat -c %i "$log$n")" = "$inode" ]; then tail -c "+$((size + 1))" "$log$n"; else cat "$log$n"; fi
  done
  # Refused early (its lock was held, a bad option), certbot logs to a directory of its own. The name is believed only
  # where certbot makes such directories, and only for root's: it is printed among words that others may have chosen.
  f=$(sed -n 's|^Saving debug log to \(/tmp/certbot-log-[A-Za-z0-9_]*/log\)$|\1|p' "$d/err" | tail -n 1)
  [ -n "$f" ] && [ -O "${f%/*}" ] && [ ! -L "${f%/*}" ] && [ -f "$f" ] && [ ! -L "$f" ] && cat "$f"
}

collect() {
  status
  for f in out err; do [ ! -f "$d/$f" ] || tail -c "$KEEP_BYTES" "$d/$f" | base64 | section "$f"; done
  debug_log 2>/dev/null | tail -c "$KEEP_BYTES" | base64 | section log
  finish OK
}

# --- the probe -------------------------------------------------------------------------------------------------------
# A webroot belongs to the site's users, who may swap a folder for a link while we walk. So each step goes into the
# folder first and asks the kernel afterwards where that was; from then on "." is that folder, whatever its path becomes.
here() { [ "$(readlink /proc/self/cwd)" = "$1" ]; }

# dd opens the file once, anew, and follows no link; a shell's redirection would write into a device behind a link.
place() (
  umask 022 # nginx reads it
  cd -P "$1" 2>/dev/null || { say webroot=missing; exit; }
  at=$(readlink /proc/self/cwd); at=${at%/} # the root itself may be reached by links: the web server follows them too
  for part in .well-known acme-challenge; do
    if mkdir "./$part" 2>/dev/null; then say "d $at/$part" >>"$record"; fi
    at=$at/$part
    cd -P "./$part" 2>/dev/null || { say webroot=unwritable; exit; }
    here "$at" || { say webroot=symlink; exit; }
  done
  [ ! -e "./$token" ] && [ ! -L "./$token" ] || { say webroot=exists; exit; }
  printf '%s.%s' "$token" "$2" | dd "of=./$token" conv=excl oflag=nofollow status=none 2>/dev/null || { say webroot=unwritable; exit; }
  say "f $at/$token" >>"$record"
  # Asked for without the slash at its end, nginx redirects to the scheme that it was spoken to in.
  if mkdir "./$token.d" 2>/dev/null; then say "d $at/$token.d" >>"$record"; fi
  say webroot=placed
)

# Only what the record names as made by us, only where it still lies, and a folder only when it is empty.
take_away() {
  tac "$1" 2>/dev/null | while read -r kind path; do
    leaf=${path##*/} path=${path%/*}
    (
      cd -P "${path:-/}" && here "${path:-/}" || exit
      case $kind in f) [ ! -f "./$leaf" ] || [ -L "./$leaf" ] || rm -f "./$leaf" ;; d) rmdir "./$leaf" ;; esac
    ) 2>/dev/null
  done
  rm -f "$1"
}

sweep() { # one claim at a time drives a server: probes of older ones were left by workers that died
  set +f
  for f in "$H"/probes/*; do
    n=${f##*/}; n=${n%%.*}
    if is_number "$n" && [ "$n" -lt "$fence" ]; then take_away "$f"; fi
  done
  set -f
}

probe() {
  for word; do case $word in webroot=*) is_path "${word#*=}" || usage webroot ;; *) usage 'a word of probe' ;; esac; done
  sweep; : >>"$record" && sync "$record" || die 'the probe could not be noted'
  n=0; for word; do place "${word#*=}" "$((n += 1))"; done
  finish OK
}

unprobe() { sweep; take_away "$record"; finish OK; }

# --- removal ---------------------------------------------------------------------------------------------------------
# Each step may be repeated after a death at any point: a file is edited whole, edits that were not tested go back before
# anything else, and the lineage goes last. Revoking comes before nginx is touched: where it cannot be done the site stays
# as it is, and a revoked certificate that is shown for a moment more is what was asked for.
remove() {
  [ $# -ge 1 ] && is_host "$1" || usage name
  name=$1 revoke=no; shift
  for word; do case $word in revoke=yes | revoke=no) revoke=${word#*=} ;; *) usage 'a word of remove' ;; esac; done
  flock -n 8 || finish BUSY
  trap '' HUP PIPE # who asked may be gone: half a removal is worse than a whole one that nobody heard of
  tmp=$(mktemp -d "$H/remove.XXXXXX") || die 'no room for temporary files'
  trap 'rm -rf "$tmp"' EXIT
  nginx_stands && { [ "$revoke" = no ] || revoke; } && unserve && delete && fact removed yes
  finish OK
}

failed() { # STEP: what it printed says why
  fact failed "$1"
  for f in out err; do [ ! -s "$tmp/$f" ] || tail -c "$KEEP_BYTES" "$tmp/$f" | base64 | section "$f"; done
  return 1
}

test_nginx() { timeout 20 nginx -T >"$tmp/config" 2>"$tmp/err"; }

# What the two programs below know of nginx's language, in awk. Statements that share a line are taken apart only where
# one of them may have to go alone; the paths of files come in the environment, where no backslash is read as an escape.
NGINX_WORDS='
  function bare(t) { sub(/#.*/, "", t); return t }
  function statements(t,  c, i, n, quote, from, lead, nest) { # how many the line holds; they are in part[]
    part[1] = t; c = bare(t)
    if (c !~ /(^|[;{}])[ \t]*server[ \t]*[{][ \t]*[^ \t]/ && c !~ /(^|[;{}])[ \t]*(listen|server_name|ssl_[a-z_]+)[ \t][^;]*;[ \t]*[^ \t]/ &&
      c !~ /[;{}][ \t]*(listen|server_name|ssl_[a-z_]+)[ \t]/) return 1
    match(t, /^[ \t]*/); lead = substr(t, 1, RLENGTH); from = 1; n = nest = 0; quote = ""
    for (i = 1; i <= length(t); i++) {
      c = substr(t, i, 1)
      if (c == "\\") i++
      else if (quote != "") { if (c == quote) quote = "" }
      else if (c == "\"" || c == "\047") quote = c
      else if (c == "#") break
      else if (c == "$" && substr(t, i + 1, 1) == "{") while (i < length(t) && substr(t, i, 1) != "}") i++
      else if (c ~ /[;{}]/) {
        if (c == "}" && nest) nest--
        part[++n] = indented(lead, nest, substr(t, from, i - from + 1)); from = i + 1
        if (c == "{") nest++
      }
    }
    t = substr(t, from)
    if (t ~ /^[ \t]*#/ && n) part[n] = part[n] t
    else if (t ~ /[^ \t]/) part[++n] = indented(lead, nest, t)
    return n
  }
  function indented(lead, nest, t) { sub(/^[ \t]+/, "", t); while (nest-- > 0) lead = lead "    "; return lead t }
  function included(t, paths,  c, i, n, path, pattern) { # whether an `include` brings one of the files
    if (paths == "" || !match(t, /^[ \t]*include[ \t]+[^;]+;/)) return 0
    t = substr(t, 1, RLENGTH - 1); sub(/^[ \t]*include[ \t]+/, "", t); gsub(/["\047 \t]/, "", t)
    if (t !~ /^[\/]/) t = ENVIRON["folder"] t
    for (i = 1; i <= length(t); i++) {
      c = substr(t, i, 1)
      pattern = pattern (c == "*" ? "[^/]*" : c == "?" ? "[^/]" : c ~ /[A-Za-z0-9_\/-]/ ? c : c ~ /[\^\\]/ ? "\\" c : "[" c "]")
    }
    n = split(paths, path, "\n"); for (i = 1; i <= n; i++) if (path[i] ~ ("^" pattern "$")) return 1
    return 0
  }'

# Of the configuration as nginx reads it: "edit FILE" where a server block uses the lineage, by itself or by a file that
# it includes, and that file; the latter also as "snippet FILE". "other FILE" brings another certificate than this one.
plan() {
  folder=$1 awk -v lineage="/live/$name/" "$NGINX_WORDS"'
    function look(t,  opened) {
      t = bare(t)
      if (!inside && t ~ /^[ \t]*server[ \t]*[{]?[ \t]*$/) { inside = blocks[file] = 1; level = depth; entered = 0 }
      if (inside && t ~ /^[ \t]*include[ \t]/) includes[file] = includes[file] "\n" t
      if (index(t, lineage)) uses[file] = 1
      else if (t ~ /^[ \t]*ssl_certificate[ \t]/) others[file] = 1
      opened = gsub(/[{]/, "{", t); depth += opened; if (inside && opened) entered = 1
      depth -= gsub(/[}]/, "}", t); if (entered && depth <= level) inside = 0
    }
    /^# configuration file [\/].*:$/ { file = substr($0, 22, length($0) - 22); files[++count] = file; depth = inside = 0; next }
    { n = statements($0); for (k = 1; k <= n; k++) look(part[k]) }
    END {
      for (i = 1; i <= count; i++) {
        f = files[i]
        if (blocks[f]) { if (uses[f]) print "edit " f }
        else { if (uses[f]) snippets[++found] = f; if (others[f]) print "other " f }
      }
      for (i = 1; i <= count; i++) {
        n = split(includes[files[i]], line, "\n")
        for (k = 1; k <= n; k++) for (j = 1; j <= found; j++)
          if (included(line[k], snippets[j])) { print "edit " files[i]; print "edit " snippets[j]; print "snippet " snippets[j] }
      }
    }' <"$tmp/config" | sort -u
}

planned() { sed -n "s/^$1 //p" "$tmp/plan"; }

# The files of nginx's configuration that use the lineage; links are followed, as nginx does.
using() {
  sed -n 's/^# configuration file \(.*\):$/\1/p' "$tmp/config" | while IFS= read -r f; do
    [ ! -f "$f" ] || ! grep -v '^[[:space:]]*#' "$f" | grep -qF "/live/$name/" || readlink -f "$f"
  done | sort -u
}

nginx_stands() {
  command -v nginx >/dev/null || return 0
  put_back
  test_nginx || failed nginx
}

unserve() {
  command -v nginx >/dev/null || return 0
  : >"$tmp/out" # what revoking printed is told no more
  folder=$(sed -n '/^# configuration file /{ s/^# configuration file \(.*\/\).*/\1/p; q; }' "$tmp/config")
  plan "$folder" >"$tmp/plan"
  planned edit | while IFS= read -r f; do readlink -f "$f"; done | sort -u >"$tmp/files"
  old=$H/removed/$job.$fence # the old files are kept
  n=0
  while IFS= read -r f; do
    n=$((n + 1))
    # A folder that others write to could turn our write into one of theirs.
    [ -O "$f" ] && [ -O "${f%/*}" ] || { put_back; say "$f is not root's" >"$tmp/err"; failed edit; return; }
    mkdir -p "$old" && edit "$f" "$old/$n" || { put_back; die 'the configuration of nginx could not be written'; }
  done <"$tmp/files"
  if { [ "$n" -gt 0 ] && ! test_nginx; } || [ -n "$(using)" ]; then
    grep -q emerg "$tmp/err" || using | sed 's/$/ still uses the certificate/' >"$tmp/err"
    put_back; failed edit; return
  fi
  [ "$n" -eq 0 ] || { : >"$old/settled"; sync "$old/settled"; fact edited "$n"; }
  [ "$n" -eq 0 ] && [ ! -e "$LE/live/$name" ] || reload_nginx # also after a death between the edit and this
}

edit() { # FILE COPY; what a death leaves is hidden, and no `include DIR/*` of nginx takes a hidden file
  new=${1%/*}/.${1##*/}.certpilot
  cp -p "$1" "$2" && cp -p "$1" "$new" && without "$name" <"$1" >"$new" && cp "$new" "$2.new" && say "$1" >"$2.path" &&
    sync "$new" "$2" "$2.path" && mv "$new" "$1" && sync "${1%/*}" # or a crash brings the old one back, and no lineage
}

put_back() { # the edits that were not tested, except where somebody has changed the file since
  set +f
  for old in "$H"/removed/*; do
    [ -d "$old" ] && [ ! -e "$old/settled" ] || continue
    for path in "$old"/*.path; do
      n=${path%.path} f=$(cat "$path" 2>/dev/null) && new=${f%/*}/.${f##*/}.certpilot || continue
      if cmp -s "$n.new" "$f"; then cp -p "$n" "$new" && mv "$new" "$f"; else rm -f "$new"; fi
    done
    : >"$old/settled"
  done
  set -f
}

reload_nginx() { nginx -s reload 2>/dev/null; return 0; } # not running: then it shows nothing

# A vhost without what certbot put there: its own lines, the other lines of TLS that cannot stand without a certificate,
# and the blocks that only redirect to it, certbot's or somebody's, whose `listen` lines the vhost gets (back). A block
# that has another certificate as well keeps TLS. A file without a block is one that vhosts include.
without() {
  folder=$folder snippets=$(planned snippet) others=$(planned other) awk -v lineage="/live/$1/" "$NGINX_WORDS"'
    function code(i) { return bare(line[i]) }
    function is_tls_port(t) { return t ~ /^[ \t]*listen[ \t].*[ \t](ssl|quic)([ \t;]|$)/ }
    function is_ours(t) { return t ~ /^[ \t]*ssl_(trusted_)?certificate(_key)?[ \t]/ && index(t, lineage) }
    function is_others(t) { return (t ~ /^[ \t]*ssl_certificate[ \t]/ && !index(t, lineage)) || included(t, ENVIRON["others"]) }
    function go(i) { gone[i] = touched[row[i]] = 1 }
    function names(b,  i, t, all, on) {
      for (i = first[b]; i <= last[b]; i++) {
        t = code(i)
        if (sub(/^[ \t]*server_name[ \t]+/, "", t)) on = 1
        if (on) { all = all " " t; if (t ~ /;/) on = 0 }
      }
      gsub(/[;\t ]+/, " ", all); return all " "
    }
    function common(few, many, every,  n, part, i, hits) {
      n = split(few, part, " "); for (i = 1; i <= n; i++) if (index(many, " " part[i] " ")) hits++
      return hits > 0 && (!every || hits == n)
    }
    function target(t) { # of `return 301 https://…` or `rewrite ^ https://…`: a name, or "=" for whatever was asked for
      if (!match(t, /(return[ \t]+30[1278]|rewrite[ \t]+[(.*)$^\/]+)[ \t]+["]?https:[\/][\/]/)) return ""
      t = substr(t, RSTART + RLENGTH); if (t ~ /^[$](host|http_host|server_name)/) return "="
      sub(/[^A-Za-z0-9.-].*/, "", t); return t
    }
    { raw[NR] = $0; n = statements($0); for (k = 1; k <= n; k++) { line[++count] = part[k]; row[count] = NR } }
    END {
      for (i = 1; i <= count; i++) {
        t = code(i)
        if (is_others(t)) { if (inside) keeps[blocks] = 1; else keeps[0] = 1 }
        if (!inside && t ~ /^[ \t]*server[ \t]*[{]?[ \t]*$/) { blocks++; first[blocks] = i; inside = 1; level = depth + 0; entered = 0 }
        if (inside && depth == level + 1) whole = t !~ /^[ \t]*(location|if)[ \t(]/ || t ~ /^[ \t]*location[ \t]+[\/][ \t]*[{]/
        if (inside && whole && target(t)) to[blocks] = target(t)
        opened = gsub(/[{]/, "{", t); depth += opened; if (inside && opened) entered = 1
        depth -= gsub(/[}]/, "}", t)
        if (!inside) continue
        if (index(code(i), lineage) || included(code(i), ENVIRON["snippets"])) uses[blocks] = 1
        if (line[i] ~ /return[ \t]+404;[ \t]*# managed by Certbot/) redirects[blocks] = 1
        if (entered && depth <= level) { last[blocks] = i; inside = 0 }
      }
      if (!blocks) for (i = 1; i <= count; i++) if (is_ours(code(i)) || (!keeps[0] && is_tls_port(code(i)))) go(i)
      for (b = 1; b <= blocks; b++) if (uses[b] && keeps[b]) {
        uses[b] = 0
        for (i = first[b]; i <= last[b]; i++) if (is_ours(code(i))) go(i)
      }
      for (b = 1; b <= blocks; b++) if (uses[b]) all = all names(b)
      for (b = 1; b <= blocks; b++) if (uses[b]) {
        kept = lost = six = 0; own = names(b)
        for (i = first[b]; i <= last[b]; i++) {
          if (line[i] ~ /^[ \t]*[}][ \t]*# managed by Certbot/) for (j = i; j > first[b]; j--) { go(j); if (line[j] ~ /^[ \t]*if[ \t]*[(]/) break }
          if (line[i] ~ /# managed by Certbot[ \t]*$/ || is_ours(code(i))) go(i)
          if (is_tls_port(code(i))) { go(i); if (!lost) lost = i; if (code(i) ~ /[[]/) six = 1 }
          if (code(i) ~ /^[ \t]*if[ \t]*[(][ \t]*[$](scheme|https|server_port)/ && (target(code(i)) || target(code(i + 1)))) # by hand, as certbot does
            for (j = i; j < last[b]; j++) { go(j); if (code(j) ~ /[}]/) break }
          if (!gone[i] && code(i) ~ /^[ \t]*listen[ \t]/) kept = 1
        }
        for (r = 1; r <= blocks; r++) {
          mine = redirects[r] ? common(names(r), own, 1) : !kept && to[r] && common(names(r), all, 1) && common(names(r), own, 0) && (to[r] == "=" || index(all, " " to[r] " "))
          if (mine && !uses[r] && !keeps[r]) for (i = first[r]; i <= last[r]; i++) {
            go(i); x = code(i); gsub(/[ \t]+/, " ", x)
            if (!kept && x ~ /^ ?listen / && !given[b, x]++) back[b] = back[b] line[i] "\n"
          }
        }
        if (!kept && lost && !back[b]) {
          match(line[lost], /^[ \t]*/); x = substr(line[lost], 1, RLENGTH) "listen "
          back[b] = x "80;\n" (six ? x "[::]:80;\n" : "")
        }
      }
      for (b = 1; b <= blocks; b++) { # whoever sends visitors to one of these names sends them to HTTP
        own = names(b)
        for (i = first[b]; i <= last[b]; i++) if ((x = target(code(i))) && !index(own, " " x " ") && index(all, " " x " ")) { sub(/https:/, "http:", line[i]); touched[row[i]] = 1 }
        if (back[b]) { for (i = first[b]; !index(code(i), "{"); i++); given_at[i] = b; touched[row[i]] = 1 }
      }
      for (i = 1; i <= count; i++) { # a row that nothing was changed in stays as it was written
        if (!touched[row[i]]) { if (row[i] != row[i - 1]) print raw[row[i]]; continue }
        if (!gone[i]) print line[i]
        if (given_at[i]) printf "%s", back[given_at[i]]
      }
    }'
}

in_certbot() { timeout -k 10 60 certbot "$@" --logs-dir "$LOGS/$name" 8>&- 9>&- </dev/null >"$tmp/out" 2>"$tmp/err"; }

revoke() {
  pem=$LE/live/$name/cert.pem
  [ -r "$pem" ] || { fact revoked no; return 0; }
  openssl x509 -checkend 0 -noout -in "$pem" >/dev/null 2>&1 || { fact revoked expired; return 0; }
  set -- revoke -n --cert-name "$name" --no-delete-after-revoke
  # Of several accounts certbot would ask which.
  account=$(sed -n 's/^account *= *//p' "$LE/renewal/$name.conf" 2>/dev/null | tail -n 1)
  ! is_word "$account" || set -- "$@" --account "$account"
  if in_certbot "$@"; then fact revoked yes
  elif grep -qi 'already[ _]*revoked' "$tmp/out" "$tmp/err"; then fact revoked already
  else failed revoke; fi
}

delete() {
  parts="$LE/live/$name $LE/archive/$name $LE/renewal/$name.conf"
  # shellcheck disable=SC2086 # a host name has no spaces
  [ -n "$(ls -d $parts 2>/dev/null)" ] || { fact lineage none; return 0; }
  if [ -s "$LE/renewal/$name.conf" ]; then
    in_certbot delete -n --cert-name "$name" || { failed delete; return; }
  fi
  # shellcheck disable=SC2086
  rm -rf $parts # what certbot does not know as a lineage
  rm -rf "${LOGS:?}/$name"
  fact lineage removed
}

# --- the server's own renewals -----------------------------------------------------------------------------------------
# certbot says that it has set up a scheduled task whether or not there is one; only what runs counts.
renewal() {
  [ $# -ge 1 ] && is_host "$1" || usage name
  name=$1 before=''; shift
  for word; do
    case $word in before=*) before=${word#*=} ;; *) usage 'a word of renewal' ;; esac
    case ${before#*-} in days | hours | seconds) is_number "${before%%-*}" ;; *) false ;; esac || usage before
  done
  certbot=$(command -v certbot) || { fact did none; finish OK; }
  hook; renew_before "${before%%-*}${before:+ }${before#*-}"
  if [ -d "$ROOT/run/systemd/system" ]; then by_timer; else by_cron; fi
  finish OK
}

by_timer() {
  set -- snap.certbot.renew.timer certbot.timer certbot-renew.timer certpilot-renew.timer
  for unit; do
    systemctl -q is-active "$unit" 2>/dev/null && systemctl -q is-enabled "$unit" 2>/dev/null && { say did=found "renews=$unit"; return; }
  done
  [ -z "$(cron_lines y)" ] || { say did=found "renews=$(cron_lines y)"; return; }
  for unit; do # ours is written anew: a death may have left half of it
    [ "$unit" != certpilot-renew.timer ] && systemctl cat "$unit" >/dev/null 2>&1 && systemctl -q enable --now "$unit" >/dev/null 2>&1 && { say did=enabled "renews=$unit"; return; }
  done
  u=$ROOT/etc/systemd/system/certpilot-renew
  say '[Unit]' 'Description=Renew certificates that are due' '[Service]' Type=oneshot "ExecStart=$certbot -q renew --no-random-sleep-on-renew" >"$u.service" &&
    say '[Unit]' 'Description=Renew certificates that are due, twice a day' '[Timer]' 'OnCalendar=*-*-* 00,12:00:00' RandomizedDelaySec=12h Persistent=true '[Install]' WantedBy=timers.target >"$u.timer" &&
    chmod 644 "$u.service" "$u.timer" && systemctl daemon-reload && systemctl -q enable --now certpilot-renew.timer >/dev/null 2>&1 && say did=installed renews=certpilot-renew.timer || say did=none
}

cron_lines() { # the first crontab whose line renews here; $1 = y under systemd, where Debian's own line does nothing
  set +f
  grep -s '^[^#]*certbot.*renew' "$ROOT"/etc/crontab "$ROOT"/etc/cron.d/* "$ROOT"/etc/cron.daily/* "$ROOT"/var/spool/cron/crontabs/root "$ROOT"/var/spool/cron/root |
    { [ "$1" = y ] && grep -v '! *-d */run/systemd/system' || cat; } | { [ -x /usr/bin/certbot ] && cat || grep -v 'test -x /usr/bin/certbot'; } | sed 's/:.*//;1q'; set -f
}

by_cron() {
  pgrep -x 'cron|crond|busybox|dcron|fcron' >/dev/null 2>&1 || say cron=off
  f=$(cron_lines n)
  [ -z "$f" ] || { say did=found "renews=$f"; return; }
  [ -d "$ROOT/etc/cron.d" ] || { say did=none; return; }
  f=$ROOT/etc/cron.d/certpilot-renew n=$(hostname | cksum | cut -d' ' -f1)
  # At a minute of this server's own: all servers of the world must not ask the CA in the same one.
  say '# certpilot: renew certificates that are due' 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    "$((n % 60)) $((n / 60 % 12)),$((n / 60 % 12 + 12)) * * * root $certbot -q renew --no-random-sleep-on-renew" >"$f.new" &&
    chmod 644 "$f.new" && mv "$f.new" "$f" && say did=installed "renews=$f" || say did=none
}

# nginx shows a renewed certificate only after a reload, whatever authenticator and installer the renewal file names.
hook() {
  h=$LE/renewal-hooks/deploy/certpilot-reload-nginx
  say '#!/bin/sh' '# certpilot: nginx shows a renewed certificate only after a reload' 'PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin' 'nginx -t -q 2>/dev/null && nginx -s reload' >"$H/hook.new" || return
  cmp -s "$H/hook.new" "$h" || { mkdir -p "${h%/*}" && chmod 755 "$H/hook.new" && cp -p "$H/hook.new" "$h.new" && mv "$h.new" "$h"; }
  rm -f "$H/hook.new"
}

# certbot up to 4.0.0 takes 30 days for the renewal time of every certificate, and so a 10-day one for due at every run.
# No value: the lifetime is a long one (again), and a time that suits a short one goes.
renew_before() {
  f=$LE/renewal/$name.conf
  [ -s "$f" ] || return 0
  cp -p "$f" "$f.new" && awk -v value="$1" '
    BEGIN { day["days"] = 1; day["hours"] = 1 / 24; day["seconds"] = 1 / 86400; done = !value }
    !value { if (/^renew_before_expiry *=/ && NF == 4 && $4 in day && $3 * day[$4] < 30) next; print; next }
    /^[# ]*renew_before_expiry *=/ || (/^\[/ && !done) { if (!done) print "renew_before_expiry = " value; done = 1 }
    !/^[# ]*renew_before_expiry *=/ { print }
    END { if (!done) print "renew_before_expiry = " value }' "$f" >"$f.new" &&
    { cmp -s "$f" "$f.new" && rm -f "$f.new" || mv "$f.new" "$f"; }
}

# --- reading only ----------------------------------------------------------------------------------------------------
# Starting certbot costs most of a second of Python, so its version comes from whoever installed it, where known.
certbot_facts() {
  path=$(command -v certbot) || { say certbot_path= certbot_version=; return; }
  real=$(readlink -f "$path") version=''
  python=$(sed -n '1s/^#! *\([^ ]*\).*/\1/p;1q' "$real" | tr -d '\000')
  case $real in
    */snap)
      version=$(sed -n "s/^version: *//p" /snap/certbot/current/meta/snap.yaml | tr -d "'\"")
      python=/snap/certbot/current/bin/python3 ;;
    /usr/bin/certbot) version=$(dpkg-query -W -f '${Version}' certbot | sed 's/^[0-9]*://; s/[-+~].*//') ;;
  esac
  [ -n "$version" ] || version=$(timeout 10 certbot --version 2>&1 | sed -n 's/^certbot //p')
  say "certbot_path=$path" "certbot_version=${version%%"$NL"*}"
  python=${python%/bin/python*}; set +f
  for f in "$python"/lib/python3*/*-packages/certbot_nginx "$python"/local/lib/python3*/*-packages/certbot_nginx; do
    case $f in */bin/*) say unknown ;; *) [ ! -d "$f" ] || say nginx ;; esac # a wrapper in another language hides its Python
  done | sort -u | section certbot_plugins; set -f
}

nginx_facts() {
  fact nginx_path "$(command -v nginx)"
  command -v nginx >/dev/null || { fact nginx_running no; return; }
  fact nginx_version "$(nginx -v 2>&1 | sed -n 's|.*nginx/||p')"
  timeout 20 nginx -T >"$tmp/config" 2>"$tmp/test"
  fact nginx_test_exit "$?"
  pid=$(sed -n 's/^[[:space:]]*pid[[:space:]][[:space:]]*\([^;]*\);.*/\1/p' "$tmp/config" | tail -n 1)
  [ -n "$pid" ] || pid=$(nginx -V 2>&1 | sed -n 's/.*--pid-path=\([^ ]*\).*/\1/p')
  pid=$(cat "${pid:-/run/nginx.pid}")
  is_number "$pid" && grep -qx nginx "/proc/$pid/comm" && fact nginx_running yes || fact nginx_running no
  section nginx_test <"$tmp/test"
  head -c "$CONFIG_BYTES" "$tmp/config" | section nginx_config
}

listener() { # who listens on the port: names of programs, "none", or "unknown" where ss is missing or does not say
  command -v ss >/dev/null || { say unknown; return; }
  ss -Hltnp "sport = :$1" | awk '
    { n = "unknown"; if (match($0, /\(\("[^"]*"/)) n = substr($0, RSTART + 3, RLENGTH - 4); if (!seen[n]++) o = o (o ? "," : "") n }
    END { print o ? o : "none" }'
}

own_addresses() { hostname -I 2>/dev/null || ip -o addr show scope global | awk '{ sub("/.*", "", $4); printf "%s ", $4 }'; }

timers() { set +f
  [ ! -d /run/systemd/system ] || systemctl show certbot.timer certbot-renew.timer snap.certbot.renew.timer certpilot-renew.timer certbot.service certpilot-renew.service \
    -p Id,LoadState,UnitFileState,ActiveState,NextElapseUSecRealtime,LastTriggerUSec,Result,ExecMainStatus
  grep -s '^[^#]*certbot' /etc/crontab /etc/cron.d/* /etc/cron.daily/* /var/spool/cron/crontabs/root; set -f
}

lineage() { # NAME RENEWAL LIVE ARCHIVE: which parts of it are there; certbot keeps all of them or none
  renewal=no live=no archive=no
  [ ! -e "$LE/renewal/$1.conf" ] || renewal=broken; [ ! -s "$LE/renewal/$1.conf" ] || renewal=yes
  [ -z "$(ls -A "$LE/live/$1" 2>/dev/null)" ] || live=broken
  [ ! -L "$LE/live/$1/cert.pem" ] || [ ! -r "$LE/live/$1/cert.pem" ] || live=yes
  [ -z "$(ls -A "$LE/archive/$1" 2>/dev/null)" ] || archive=yes
  say "$1 $renewal $live $archive"
}

# The log of certbot's last try to renew NAME, where that failed and was made since the certificate is there. Of it what
# certbot and its libraries say and the CA's refusals: no request (it holds the account's signature), no command lines
# (of hooks, of certbot itself: both may hold passwords). Found by certbot's own words, 1.x to 5.x; a try that has no end,
# since it goes on or was killed, says nothing.
failed_renewal() {
  logs=$(sed -n 's/^[[:space:]]*logs-dir[[:space:]=]*//p' "$LE/cli.ini" 2>/dev/null | tail -n 1)
  is_path "$logs" || logs=$ROOT/var/log/letsencrypt
  pem=$LE/live/$1/cert.pem # its age as certbot writes times: local ones, the oldest versions UTC
  since=$({ date -r "$pem" '+%Y-%m-%d %H:%M:%S'; date -u -r "$pem" '+%Y-%m-%d %H:%M:%S'; } 2>/dev/null | sort | head -n 1)
  set +f; ls -t "$logs"/letsencrypt.log* 2>/dev/null | head -n "$LOG_FILES" | while read -r f; do
    [ -f "$f" ] && ! [ "$pem" -nt "$f" ] || continue
    case $f in *.gz) timeout 5 gzip -dc <"$f" ;; *) cat <"$f" ;; esac 2>/dev/null | tail -c "$LOG_BYTES" | last_failure "$1" "$since" && break
  done; set -f
}

last_failure() { # NAME SINCE, a log on standard input; false where it tells of no try
  awk -v name="$1" -v since="$2" -v most="$FAILURE_BYTES" '
    BEGIN { open = 1 } # a log may begin in the midst of a run
    function begin(inside) { text = ""; mine = inside; open = inside }
    function ended() { if (mine && tried) { failure = ""; found = 1 } mine = tried = 0 }
    function close_failure() { failure = at < since ? "" : text; told = 0; begin(0) }
    function keep() { # the record that is over
      if (!open || !record || secret || !(loud || plain || (answer && refused))) return
      text = text record
      if (length(text) > 2 * most) text = substr(text, length(text) - most + 1)
    }
    /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9] [0-9][0-9]:[0-9][0-9]:[0-9][0-9],[0-9]*:[A-Z]*:/ {
      keep(); record = ""; secret = refused = 0
      split($0, part, ":"); loud = part[4] ~ /^(WARNING|ERROR|CRITICAL)$/
      plain = part[5] ~ /^certbot/ && !/:(Arguments: |Picked account)|hook/; answer = /:acme\.client:Received response/
      if (told && !/:(Traceback was|The error was):/) close_failure()
      if (/:certbot version: /) { tried = 0; begin(1) }
      else if (/(not yet due for|No|no|All|all|following) (renewal|simulated|certificates|certs)/) ended()
      if (loud && (index($0, "certificate " name " with error") || index($0, "cert (" name ")") || index($0, "/renewal/" name ".conf"))) { told = found = 1; tried = 0; at = substr($0, 1, 19) }
    }
    /(^|Notifying user: )Processing \// {
      ended(); begin($0 ~ /\.conf$/ && substr($0, length($0) - length(name) - 13) == "/renewal/" name ".conf")
      tried = mine
    }
    /PRIVATE KEY/ { secret = 1 }
    /urn:|"error"|"detail"/ { refused = 1 }
    { record = record $0 "\n" }
    END {
      keep()
      if (told) close_failure()
      if (length(failure) > most) failure = substr(failure, length(failure) - most + 1)
      printf "%s", failure
      exit !found
    }'
}

inspect() {
  failure=''
  for word; do
    shift
    case $word in failure=*) is_host "${word#*=}" && failure=${word#*=} || usage failure ;; *) is_host "$word" || usage name; set -- "$@" "$word" ;; esac
  done
  tmp=$(mktemp -d "$H/inspect.XXXXXX") && exec 2>"$tmp/errors" || die 'no room for temporary files'
  trap 'rm -rf "$tmp"' EXIT; trap 'exit 1' HUP INT PIPE TERM
  fact os "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release | tr -d '"')"
  say "user_id=$(id -u)" "boot_id=$(cat /proc/sys/kernel/random/boot_id)" "epoch_ms=$(date +%s%3N)"
  [ -d /run/systemd/system ] && fact systemd yes || fact systemd no
  certbot_busy && fact certbot_busy yes || fact certbot_busy no
  # What is quick first: of a server that is slow with the rest these are known all the same.
  find "$LE/accounts" -name regr.json 2>/dev/null | while read -r f; do # lines: CA/ID URI
    n=${f#"$LE"/accounts/}
    say "${n%/regr.json} $(sed -n 's/.*"uri": *"\([^"]*\)".*/\1/p' "$f")"
  done | section accounts
  for name; do [ ! -r "$LE/live/$name/cert.pem" ] || { fact name "$name"; cat "$LE/live/$name/cert.pem"; }; done | section certificates
  for name; do lineage "$name"; done | section lineages
  [ -d "$LE" ] && f=$LE || f=/etc
  for n in k:disk_free_kb_ i:inode_free_; do
    # btrfs and others count no inodes and say 0 of 0: that is not a full disk
    df "-P${n%%:*}" "$f" /var/lib /var/log | awk -v "k=${n#*:}" 'BEGIN { split("etc var log", n) } NR > 1 && $2 + 0 { print k n[NR - 1] "=" $4 }'
  done
  awk '/^MemAvailable:/ { print "memory_available_kb=" $2 }' /proc/meminfo
  say "port80_listener=$(listener 80)" "port443_listener=$(listener 443)"; fact addresses "$(own_addresses)"
  certbot_facts
  nginx_facts
  timers | section timers
  [ -z "$failure" ] || failed_renewal "$failure" | section failed_renewal
  section errors <"$tmp/errors"
  finish OK
}

lineages() { # every lineage that certbot knows here, with its authenticator
  [ $# -eq 0 ] || usage arguments
  set +f
  for f in "$LE"/renewal/*.conf; do
    name=${f##*/} name=${name%.conf}
    is_host "$name" && [ -r "$LE/live/$name/cert.pem" ] || continue
    fact lineage "$name $(sed -n 's/^authenticator *= *\([A-Za-z0-9_-]*\).*/\1/p' "$f" | tail -n 1)"
    section "certificate $name" <"$LE/live/$name/cert.pem"
  done
  set -f
  finish OK
}

served() { # what nginx shows for the name, asked from here, for when the wire is closed to the worker
  [ $# -eq 1 ] && is_host "$1" || usage name
  for address in 127.0.0.1 $(own_addresses); do
    case $address in *:*) n="[$address]:443" ;; *) n=$address:443 ;; esac
    timeout 5 openssl s_client -connect "$n" -servername "$1" -showcerts </dev/null 2>/dev/null |
      sed -n '/^-----BEGIN CERTIFICATE-----$/,/^-----END CERTIFICATE-----$/p' | section "served $address"
  done
  finish OK
}

# --- the door --------------------------------------------------------------------------------------------------------
say agent=1 # the version of this dialogue
# As a forced command (authorized_keys: command="…") the words come in one variable. xargs splits them by a shell's
# rules of quoting, but expands nothing and runs nothing.
if [ $# -eq 0 ] && [ -n "${SSH_ORIGINAL_COMMAND:-}" ]; then
  case $SSH_ORIGINAL_COMMAND in *[[:cntrl:]]*) usage 'a control character' ;; esac
  words=$(printf '%s' "$SSH_ORIGINAL_COMMAND" | xargs printf '%s\n' 2>/dev/null) || usage quotes
  IFS=$NL
  # shellcheck disable=SC2086 # split here, at line breaks only
  set -- $words; unset IFS
  while [ $# -gt 0 ]; do case $1 in sudo | -n | */certpilot-agent) shift ;; *) break ;; esac; done
fi
[ $# -gt 0 ] || usage verb
verb=$1; shift
mkdir -p "$H/jobs" "$H/probes" && [ -O "$H" ] && [ ! -L "$H" ] || die 'the home directory is not ours'
case $verb in
  version) finish OK ;;
  inspect | served | lineages) "$verb" "$@" ;;
  look | start | void | stop | collect | clean | probe | unprobe | remove | renewal) [ $# -ge 3 ] || usage arguments ;;
  *) usage verb ;;
esac
fence=$1 job=$2 attempt=$3 token=$3; shift 3
is_number "$fence" && is_word "$job" || usage 'fence or job'
case $verb in
  probe | unprobe) is_word "$token" && [ ${#token} -ge 16 ] ;;
  look) is_number "$attempt" && [ ${#attempt} -le 6 ] ;; # 0: the job has none yet
  remove | renewal) is_number "$attempt" && [ ${#attempt} -le 6 ] ;;
  *) is_number "$attempt" && [ ${#attempt} -le 6 ] && [ "$attempt" -gt 0 ] ;;
esac || usage 'attempt or token'
case $verb in start | look | probe | remove | renewal) ;; *) [ $# -eq 0 ] || usage arguments ;; esac
d=$H/jobs/$job.$attempt record=$H/probes/$fence.$job.$token
# Read to its end before anything can end us: who writes it must not meet a closed pipe.
secret=''
[ "$verb" != start ] || for word; do case $word in eab=*) secret=$(head -c 1024; cat >/dev/null); break ;; esac; done

# 1. One command at a time. The lock is held to the end of this process and never inherited by a run.
command -v flock >/dev/null || die 'flock (util-linux) is missing'
command exec 9>>"$H/agent.lock" || die 'no lock file'
flock -w 20 9 || finish AGENT_BUSY
# 2. The fence. Equal is the same claim; a newer one is durable before anything is looked at.
last=$(cat "$H/fence" 2>/dev/null || echo 0)
is_number "${last:=0}" || die 'the fence file is damaged'
[ "$fence" -ge "$last" ] || { fact fence "$last"; finish STALE; }
if [ "$fence" -gt "$last" ]; then
  say "$fence" >"$H/fence.new" && sync "$H/fence.new" && mv "$H/fence.new" "$H/fence" && sync "$H" || die 'the fence could not be written to disk'
fi
# 3. The verb.
command exec 8>>"$H/run.lock" || die 'no lock file'
"$verb" "$@"
