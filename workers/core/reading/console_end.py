"""What certbot itself says after the order: saving, installing, hooks, prompts; the second half of `console`."""

from contracts.codes import Code
from workers.core.reading.values import Row, Stage, Table, Weight

_S = Stage

SAVE = (
    Row(
        ("archive directory exists for {lineage}", "live directory exists for {lineage}"),
        Code.LINEAGE_BROKEN, _S.SAVE, "certbot storage.py new_lineage: after the CA has issued (FACTS-certbot 2, row 8)",
        fix="Remove the left-over folder under /etc/letsencrypt/live or archive, then try again once.",
    ),
    Row(
        ("to be a symlink", "of symlink {path} does not exist", "target {path} of symlink", "is missing a required file reference",
         "renewal config file name must end in .conf", "could not find the certificate file", "could not find cert file"),
        Code.LINEAGE_BROKEN, _S.SAVE, "certbot storage.py RenewableCert",
    ),
    Row(
        ("renewal conf file {path} is broken", "renewal configuration file {path} is broken", "was not parsed correctly",
         "renewal configuration file {path} produced an unexpected error", "lacks renewalparams",
         "does not specify an authenticator", "references a cert that contains an invalid domain name",
         "references a certificate that contains an invalid domain name", "an error occurred while parsing {path}. the error was"),
        Code.LINEAGE_BROKEN, _S.SAVE, "certbot renewal.py _reconstitute, storage.py; the run goes on with other certificates",
        weight=Weight.BACKGROUND, explains=(Code.INTERNAL, Code.CERTBOT_BROKEN),
    ),
    Row(
        ("the following renewal configurations were invalid", ", {some} parse failure(s)", "the following renewal configuration files were invalid",
         "{path}(parsefail)", "could not load certificate. see logs"),
        Code.LINEAGE_BROKEN, _S.SAVE, "certbot renewal.py _renew_describe_results", weight=Weight.CONSEQUENCE,
    ),
    Row(
        ("cannot use domain name as lineage name", "is required but missing for this certificate", "the new certificate name is already in use", "error parsing /etc/letsencrypt/", "error, link {path} is a loop", "target certificate does not exist"),
        Code.LINEAGE_BROKEN, _S.SAVE, "certbot client.py, storage.py",
    ),
)  # fmt: skip

INSTALL = (
    Row(
        ("could not automatically find a matching server block for {host}. set the",
         "could not automatically find a matching server block",
         "unable to find a virtual host listening", "vhost with a servername or address of {host}",
         "the nginx plugin could not find a server block"),
        Code.NO_MATCHING_VHOST, _S.INSTALL, "certbot_nginx configurator.py _vhost_from_duplicated_default; before 0.31 without the name",
        not_that="no failed issue: where a certificate was saved, asking again would spend a limit",
    ),
    Row(
        ("tried to insert directive", "but found conflicting", "unable to set the redirect enhancement",
         "unable to set the {} enhancement for {host}", "unable to set enhancement {} for {host}", "existing {} header",
         "unable to find corresponding https host for enhancement", "an error occurred while enabling ocsp",
         "could not open file for writing", "currently requires --fullchain-path", "unsupported enhancement",
         "unable to add file {} to checkpoint", "unable to finalize checkpoint", "incomplete or failed recovery",
         "unable to recover files from", "an error occurred and we failed to restore your config"),
        Code.INSTALL_FAILED, _S.INSTALL, "certbot_nginx parser.py, configurator.py; certbot client.py, reverter.py",
    ),
    Row(
        ("unable to install the certificate", "could not install certificate", "but could not be installed (installer",
         "the certificate was saved, but could not be installed", "certbot install --cert-name {lineage}"),
        Code.INSTALL_FAILED, _S.INSTALL, "certbot client.py deploy_certificate, main.py _report_next_steps",
        weight=Weight.CONSEQUENCE, not_that="no failed issue: the certificate was saved",
    ),
)  # fmt: skip

HOOKS = (
    Row(
        ("hook 'deploy-hook' reported error code", "deploy-hook command {} returned error code", "hook 'renew-hook' reported error code",
         "renew-hook command {} returned error code"),
        Code.INSTALL_FAILED, _S.HOOK, "certbot hooks.py, compat/misc.py: certbot itself still exits 0 (FACTS-certbot 2, row 11)",
        weight=Weight.CONSEQUENCE, says="The certificate is there, but the server's own step after it failed.",
        fix="Look at the hook's output and run it by hand.",
    ),
    Row(
        ("hook command {} returned error code", "hook 'post-hook' reported error code", "post-hook command {} returned error code",
         "hook 'pre-hook' reported error code", "pre-hook command {} returned error code"),
        Code.INSTALL_FAILED, _S.HOOK, "certbot hooks.py since 0.21: certbot goes on and exits 0",
        weight=Weight.BACKGROUND, says="A step that the server adds to certbot failed.",
        fix="Look at the hook's output and run it by hand.",
    ),
)  # fmt: skip

_PROMPT = "Correct the call: --non-interactive with every answer as an option (--agree-tos, --expand, --cert-name, …)."

PROMPTS = (
    Row(
        ("you requested these names for the new certificate: {}", "do you want to expand and replace this existing certificate"),
        Code.INTERNAL, _S.START, "certbot main.py _handle_subset_cert_request", weight=Weight.CONSEQUENCE,
        says="certbot asked whether to add a name to the certificate, and nobody could answer.", fix=_PROMPT,
    ),
    Row(
        ("eoferror", "eof when reading a line", "missing command line flag or config entry for this setting",
         "skipped user interaction because certbot doesn't appear to be running in a terminal",
         "timed out waiting for answer to prompt", "missing command line flags. for non-interactive execution",
         "please specify --domains, or --installer", "user cancelled the domain selection", "how would you like to authenticate",
         "must agree to ip logging", "authentication script must be provided"),
        Code.INTERNAL, _S.START, "certbot display/util.py, plugins/selection.py: a question without anybody to answer it",
        weight=Weight.CONSEQUENCE,
        says="certbot asked a question, and nobody could answer.", fix=_PROMPT,
        not_that="no fault of the site: the caller has to answer",
    ),
    Row(
        ("are you trying to change the key type of the certificate named {lineage} from", "because --reuse-key is set",
         "specified mismatched certificate name and domains", "specified mismatched cert name and domains",
         "valid certificate with a test certificate", "inconsistent domain requests", "the key and csr do not match"),
        Code.INTERNAL, _S.START, "certbot main.py, renewal.py, client.py",
        says="certbot was called in a way that contradicts the certificate on the server.", fix="Correct the call: see the option it names.",
    ),
    Row(
        ("operation canceled. you may re-run the client", "exiting due to user request", "keyboardinterrupt", "user ended interaction"),
        Code.INTERRUPTED, _S.START, "certbot main.py, log.py: somebody pressed Ctrl-C or cancelled",
    ),
    Row(
        ("requested name {host} is an ip address", "{host} needs at least two labels", "requested name {} appears to be a url",
         "contains an invalid character. valid characters are", "non-ascii domain names not supported",
         "it contains an empty label", "it is too long", "label {} is too long", 'cannot start with "-"', 'cannot end with "-"'),
        Code.REJECTED_BY_CA, _S.START, "certbot util.py enforce_domain_sanity: refused before the CA is asked",
    ),
)  # fmt: skip

CERTBOT_END = Table("certbot", (), (*SAVE, *INSTALL, *HOOKS, *PROMPTS))
