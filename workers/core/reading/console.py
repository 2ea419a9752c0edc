"""What certbot itself says, on its console and in its log.

Sources: certbot's source at v0.21.0, v0.31.0, v1.0.0, v1.12.0, v1.21.0, v2.1.0, v2.9.0, v4.0.0 and v5.6.0, by file:
`main.py`, `client.py`, `auth_handler.py`, `renewal.py`, `storage.py`, `lock.py`, `hooks.py`, `util.py`, `log.py`,
`plugins/selection.py`, `plugins/standalone.py`, `plugins/webroot.py`, `certbot_nginx/configurator.py`, `parser.py`.
"""

from contracts.codes import Code, Retry
from workers.core.reading.values import Row, Stage, Table, Weight

_S = Stage
_PROMPT_FIX = "Correct the call: --non-interactive with every answer as an option (--agree-tos, --expand, --cert-name, …)."

_UNTOLD = "The CA's check of the site failed, but this text does not say why."
_LOOK = "Read the debug log, where the CA's whole answer stands; look at DNS, port 80 and the challenge path."
_CUT = (
    "hint:the", "reportedtheseproblems", "reportedbytheserver", "failedauthorizationprocedure.", "traceback(", ":debug:certbot", ":info:certbot",
    ":error:certbot", "authorizationerror",
)  # fmt: skip
"""Where one of these stands, the CA's reason stood beside it: a text without the reason is cut, and no cause is guessed."""

START = (
    Row(
        ("another instance of", ".certbot.lock is held by another process", "unable to lock /etc/nginx",
         "a lock on {path} is held by another process"),
        Code.SERVER_BUSY, _S.START, "certbot lock.py; certbot_nginx configurator.py; FACTS-certbot 2, row 1",
        not_that="no lack of memory or network: errno 11 is the kernel's word for a lock that is taken",
    ),
    Row(
        ("either run as root, or set --config-dir, --work-dir, and --logs-dir",),
        Code.INTERNAL, _S.START, "certbot util.py: the advice comes with every error at start, whatever the errno",
        weight=Weight.BACKGROUND,
    ),
    Row(
        ("be run on a shell with administrative rights", "certbot must be run as root", "must be run as root",
         "needs to be run as root", "you need to be root", "please run as root", "run this script as root",
         "you must run this as root"),
        Code.PERMISSION_DENIED, _S.START, "certbot compat/misc.py; scripts around certbot", weight=Weight.CONSEQUENCE,
    ),
    Row(
        ("exists, but it should be owned by",),
        Code.PERMISSION_DENIED, _S.START, "certbot util.py make_or_verify_dir",
    ),
    Row(
        ("certbot: error: unrecognized arguments: --nginx", "letsencrypt: error: unrecognized arguments: --nginx",
         "error: unrecognized arguments: --dns", "certbot: error: unrecognized arguments: --apache"),
        Code.CERTBOT_PLUGIN_MISSING, _S.START, "argparse: the option is the plugin's own",
        unless=("--nginx-sleep",),
    ),
    Row(
        ("error: unrecognized arguments: --key-type", "error: unrecognized arguments: --nginx-sleep-seconds",
         "error: unrecognized arguments: --preferred", "error: unrecognized arguments: --required-profile",
         "error: unrecognized arguments: --no-random-sleep-on-renew", "error: unrecognized arguments: --renew-with-new-domains",
         "error: unrecognized arguments: --issuance-timeout", "error: unrecognized arguments: --elliptic-curve",
         "error: unrecognized arguments: --deploy-hook", "error: unrecognized arguments: --ip-address",
         "error: unrecognized arguments: --no-autorenew", "error: unrecognized arguments: --cert-name",
         "error: unrecognized arguments: --register-unsafely", "error: unrecognized arguments: --eab",
         "error: argument --key-type", "reconfigure: error", "your system is not supported by certbot-auto anymore",
         "certbot-auto and its letsencrypt-auto"),
        Code.CERTBOT_OUTDATED, _S.START, "options by the version that brought them: certbot CHANGELOG",
    ),
    Row(
        ("certbot: error:", "letsencrypt: error:", "certbot-auto: error:", "is not a valid subcommand",
         "flag for non-interactive mode and", "cannot be used with renew", "unable to open config file:",
         "--dry-run currently only works with"),
        Code.INTERNAL, _S.START, "argparse; certbot cli/helpful.py", unless=("unrecognizedarguments:--",),
        says="certbot was called with options that it does not take.", fix="Correct the call: see the option it names.",
    ),
    Row(
        ("no certificate with name {lineage} found", "no certificate found with name {lineage} (expected",
         "an existing certificate with name {lineage} could not be found", "no existing certificates found",
         "no existing certificate with name {lineage} found", "could not find the lineage for the given certificate name",
         "an existing certificate for the given name could not be found", "no match found for cert-path"),
        Code.LINEAGE_BROKEN, _S.START, "certbot cert_manager.py, main.py, storage.py",
        says="The server has no certificate of that name.", fix="Issue it anew.",
    ),
)  # fmt: skip

PLUGIN = (
    Row(
        ("plugin does not appear to be installed", "no module named 'certbot_nginx'", "no module named certbot_nginx",
         "could not select or initialize the requested authenticator nginx",
         "could not select or initialize the requested installer nginx",
         "could not select or initialize the requested installer certbot-nginx:nginx",
         "requested authenticator nginx and installer nginx {} no candidate plugin"),
        Code.CERTBOT_PLUGIN_MISSING, _S.PLUGIN, "certbot plugins/selection.py cli_plugin_requests, record_chosen_plugins",
    ),
    Row(
        ("could not find a usable 'nginx' binary", "noinstallationerror", "unable to run nginx -v",
         "could not find nginx root configuration", "could not find configuration root", "failed to find executable nginx in",
         "cannot find nginx executable", "unable to find nginx version"),
        Code.NGINX_MISSING, _S.PLUGIN, "certbot_nginx configurator.py prepare, parser.py _find_config_root",
        unless=("apacheplugin",), not_that="no broken configuration: that sentence is printed for every fault of the plugin",
    ),
    Row(
        ("could not parse file: {path} due to", "could not parse file:"),
        Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx parser.py: the file is left out, and its server blocks with it",
        weight=Weight.BACKGROUND, explains=(Code.NO_MATCHING_VHOST, Code.INSTALL_FAILED),
    ),
    Row(
        ("could not read file: {path} due to invalid character", "only utf-8 encoding is supported"),
        Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx parser.py since 1.12",
        weight=Weight.BACKGROUND, explains=(Code.NO_MATCHING_VHOST, Code.INSTALL_FAILED),
    ),
    Row(
        ("directive, which is not supported by certbot. the file has been ignored", "no nginx http block found",
         "could not find a block to include challenges in", "could not find an http block to include",
         "none of the parsing hooks succeeded", "block parsing expects a list"),
        Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx parser.py, parser_obj.py, http_01.py",
    ),
    Row(
        ("nginx build is missing ssl module", "nginx build doesn't support sni", "nginx version must be 0.8.48"),
        Code.NGINX_MISSING, _S.PLUGIN, "certbot_nginx configurator.py get_version",
        says="This nginx was built without what certbot needs.", fix="Install the distribution's nginx.",
    ),
    Row(
        ("plugin is not working; there may be problems with your existing configuration",
         "the selected plugin encountered an error while parsing your server configuration"),
        Code.INTERNAL, _S.PLUGIN, "certbot plugins/selection.py: said of every fault of a plugin",
        weight=Weight.CONSEQUENCE, says="certbot's nginx plugin does not work, but this text does not say why.",
        fix="Read the line that follows it in the debug log.",
    ),
    Row(
        ("could not choose appropriate plugin", "could not choose appropriate plugin for updaters"),
        Code.CERTBOT_PLUGIN_MISSING, _S.PLUGIN, "certbot main.py", weight=Weight.CONSEQUENCE,
    ),
    Row(
        ("no names were found in your configuration files",),
        Code.NO_MATCHING_VHOST, _S.PLUGIN, "certbot display/ops.py choose_names", weight=Weight.CONSEQUENCE,
        says="No server block of nginx has a server_name.",
    ),
)  # fmt: skip

_NO_ACCOUNT = "certbot has no account at the CA, or may not choose between several."
_REGISTER = "Register once: certbot register --agree-tos, with an e-mail or without; pass --account where there are several."

ACCOUNT = (
    Row(
        ("you should register before running non-interactively", "please choose an account",
         "cannot proceed without accepting terms of service", "please register with the acme server first",
         "no account has been chosen", "--register-unsafely-without-email must be provided",
         "an e-mail address must be provided", "account ids mismatch", "account at {path} does not exist"),
        Code.ACCOUNT_INVALID, _S.ACCOUNT, "certbot main.py _determine_account, display/ops.py, account.py",
        says=_NO_ACCOUNT, fix=_REGISTER,
    ),
    Row(
        ("you must agree in order to register with the acme server", "enter email address"),
        Code.ACCOUNT_INVALID, _S.ACCOUNT, "certbot main.py: a question about the account that nobody answered",
        needs=("missingcommandlineflag",), says=_NO_ACCOUNT, fix=_REGISTER,
    ),
    Row(
        ("you must agree in order to register with the acme server", "enter email address"),
        Code.ACCOUNT_INVALID, _S.ACCOUNT, "the same where standard input has ended",
        needs=("eoferror",), says=_NO_ACCOUNT, fix=_REGISTER,
    ),
    Row(
        ("is an invalid email address",),
        Code.ACCOUNT_CONTACT_INVALID, _S.ACCOUNT, "certbot client.py perform_registration",
    ),
    Row(
        ("server requires external account binding", "--eab-kid and --eab-hmac-key"),
        Code.ACCOUNT_EAB_REQUIRED, _S.ACCOUNT, "certbot client.py perform_registration",
    ),
    Row(
        ("unable to register an account with acme server",),
        Code.ACCOUNT_INVALID, _S.ACCOUNT, "certbot main.py _determine_account: before 1.22 without the reason, which then stands in the log",
        weight=Weight.CONSEQUENCE, unless=(":error:certbot", "exitingabnormally", "error:unabletoregister"),
    ),
)  # fmt: skip

CHALLENGE = (
    Row(
        ("you may need to use an authenticator plugin that can do challenges over dns",),
        Code.WILDCARD_NEEDS_DNS, _S.CHALLENGE, "certbot auth_handler.py: said where DNS-01 is the only challenge offered",
        not_that="no broken certbot, whatever traceback is printed around it",
    ),
    Row(
        ("does not support any combination of challenges that will satisfy the ca",
         "none of the preferred challenges are supported by the selected plugin", "received unsupported challenge of type"),
        Code.CERTBOT_OUTDATED, _S.CHALLENGE, "certbot auth_handler.py; TLS-SNI-01 was retired in 2019",
        unless=("challengesoverdns",),
    ),
    Row(
        ("problem binding to port", "could not bind to ipv4 or ipv6", "because it is already in use by another process",
         "at least one of the required ports is already taken", "at least one of the (possibly) required ports is already taken",
         "failed to bind to :80 using", "failed to bind to :443 using", "bind: address already in use", "could not bind to address", "the program {} is already listening on tcp port"),
        Code.PORT_80_IN_USE, _S.CHALLENGE, "certbot plugins/standalone.py, plugins/util.py; acme standalone.py",
        says="Another program on the server holds the port that certbot wants to answer the CA on.",
        fix="Let certbot answer through nginx (-a webroot or -a nginx) instead of --standalone; do not stop the site.",
        not_that="no closed port and no fault of IPv6: the port is taken",
    ),
    Row(
        ("because you don't have the appropriate permissions",),
        Code.PERMISSION_DENIED, _S.CHALLENGE, "certbot plugins/standalone.py: EACCES at bind",
    ),
    Row(
        ("cannot find a virtualhost matching domain {host}. in order", "cannot find a virtualhost matching domain {host}",
         "unable to find a virtual host listening on port 80"),
        Code.NO_MATCHING_VHOST, _S.CHALLENGE, "certbot_nginx configurator.py; certbot_apache http_01.py",
    ),
    Row(
        ("does not exist or is not a directory", "every requested domain must have a webroot",
         "every requested identifier must have a webroot", "missing parts of webroot configuration"),
        Code.CHALLENGE_FAILED, _S.CHALLENGE, "certbot plugins/webroot.py", retry=Retry.SERVER_ADMIN,
        says="The folder that certbot is to put the check's file into is not there.",
        fix="Correct the webroot path of the call or of the certificate's renewal file.",
    ),
    Row(
        ("but couldn't download http", "but couldn't download {} error"),
        Code.CHALLENGE_FAILED, _S.CHALLENGE, "acme-tiny (Webmin's client): it asks for its own file before the CA does",
        unless=("errno-2]", "errno-3]", "errno-5]"),
    ),
    Row(
        ("but couldn't download http",),
        Code.DNS_NOT_RESOLVING, _S.START, "acme-tiny: the server itself cannot resolve the site's name", needs=("urlopenerror[errno-",),
    ),
    Row(
        ("input the webroot for {host}:",),
        Code.INTERNAL, _S.CHALLENGE, "certbot plugins/webroot.py _prompt_for_webroot",
        weight=Weight.CONSEQUENCE, says="certbot was not told the folder of the site.", fix=_PROMPT_FIX,
    ),
    Row(
        ("all authorizations were not finalized by the ca", "timed out waiting for", "acme.errors.timeouterror",
         "errors.timeouterror", "the certificate order failed. no further information", "failed to fetch chain",
         "acme.errors.pollerror"),
        Code.CA_UNAVAILABLE, _S.CHALLENGE, "certbot auth_handler.py, client.py; acme client.py",
        says="The CA did not finish in time.",
    ),
    Row(
        ("challenge failed for domain {host}", "some challenges have failed", "all challenges have failed",
         "challenges failed for all domains"),
        Code.CHALLENGE_FAILED, _S.CHALLENGE, "certbot auth_handler.py; on standard error, and with -q, nothing else is printed (FACTS-certbot 2, row 15)",
        weight=Weight.CONSEQUENCE, needs=("savingdebuglogto",), unless=_CUT,
        says=_UNTOLD, fix=_LOOK,
    ),
    Row(
        ("challenge failed for domain {host}", "some challenges have failed"),
        Code.CHALLENGE_FAILED, _S.CHALLENGE, "the same with -q, which prints neither the first line nor frames nor advice",
        weight=Weight.CONSEQUENCE, unless=(*_CUT, "savingdebuglogto", "-----", "askforhelp"),
        says=_UNTOLD, fix=_LOOK,
    ),
    Row(
        ("challenge failed for domain", "some challenges have failed", "reported these problems:",
         "the following errors were reported by the server:", "failed authorization procedure"),
        Code.INTERNAL, _S.CHALLENGE, "the text is cut before or after the CA's reason: no guess",
        weight=Weight.BACKGROUND, says=_UNTOLD, fix=_LOOK,
    ),
)  # fmt: skip

CERTBOT = Table("certbot", (), (*START, *PLUGIN, *ACCOUNT, *CHALLENGE))
