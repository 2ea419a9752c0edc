"""What a configuration of nginx by itself can show: the rows of `config`.

Sources: nginx's documentation of `listen`, `server_name`, `if`, `return`; certbot_nginx `configurator.py`, `parser.py`;
certbot #5960 (ipv6only copied), #6146 (redirect in the https block), #9221 (pattern without `~`), FACTS-certbot 4.6.
What stands in nginx's configuration is the server's admin's to mend, whoever owns the site.
"""

from contracts.codes import Code, Retry
from workers.core.reading.values import Row, Stage

_S = Stage

LOOP = Row(
    (), Code.REDIRECT_LOOP, _S.SERVE, "a redirect to https in a block that serves https itself; certbot #6146", retry=Retry.SERVER_ADMIN,
    says="The redirect to HTTPS stands in a server block that serves HTTPS too, so visitors are sent to where they are.",
    fix="Keep the redirect in a block that only listens on port 80, and the site in another that listens on 443.",
)  # fmt: skip
IPV6ONLY = Row(
    (), Code.NGINX_RELOAD_FAILED, _S.RELOAD, "certbot_nginx copies the listen line into its challenge block; nginx: duplicate listen options; certbot #5960",
    says="certbot's challenge block repeats the options of this listen line, and nginx then refuses to reload.",
    fix="Take `ipv6only=…` off the listen lines of port 80 (on is the default), then reload nginx.",
)  # fmt: skip
HTTP2 = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "boulder: Server is speaking HTTP/2 over HTTP", retry=Retry.SERVER_ADMIN,
    says="nginx speaks HTTP/2 on port 80, which the CA's check cannot read.",
    fix="Take `http2` off every `listen` line of port 80, in all server blocks, and reload nginx.",
)  # fmt: skip
NO_NAME = Row(
    (), Code.NO_MATCHING_VHOST, _S.INSTALL, "certbot_nginx looks for a server_name; a pattern without ~ is a literal name; certbot #9221",
    says="No server block has the site's name: patterns need a ~ in front, and `_` or nothing is no name.",
)  # fmt: skip
HIDDEN = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "a location that denies paths which begin with a dot", retry=Retry.SERVER_ADMIN,
    says="The server block denies every path with a dot in front, the CA's check among them.",
    fix="Add `location ^~ /.well-known/acme-challenge/ { allow all; }` above it.",
)  # fmt: skip
LOCKED = Row(
    (), Code.CHALLENGE_FAILED, _S.CHALLENGE, "auth_basic, deny all or return 403 for the whole block", retry=Retry.SERVER_ADMIN,
    says="The server block turns away everybody it does not know, the CA's check too.",
    fix="Exempt /.well-known/acme-challenge/ from the password or the deny rule.",
)  # fmt: skip
GEO = Row(
    (), Code.GEO_BLOCKED, _S.CHALLENGE, "ngx_http_geoip_module, geo: the CA checks from several countries", retry=Retry.SERVER_ADMIN,
)  # fmt: skip
NO_CERTIFICATE = Row(
    (), Code.NGINX_CONFIG_BROKEN, _S.RELOAD, 'nginx: no "ssl_certificate" is defined for the "listen … ssl" directive',
    says="A server block listens with ssl but names no certificate.",
)  # fmt: skip
BROKEN = Row(
    (), Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_conf_file.c ngx_conf_read_token: the file does not parse",
    says="nginx cannot read this configuration: a semicolon, a quote or a brace is missing.",
)  # fmt: skip
TWO_DEFAULTS = Row(
    (), Code.NGINX_CONFIG_BROKEN, _S.RELOAD, "nginx ngx_http.c ngx_http_add_addresses: a duplicate default server",
    says="Two server blocks say that they are the default server of one address.",
)  # fmt: skip
LUA = Row(
    (), Code.NGINX_CONFIG_UNREADABLE, _S.PLUGIN, "certbot_nginx nginxparser.py does not know Lua blocks",
)  # fmt: skip
SNAKEOIL = Row(
    (), Code.NOT_SERVED, _S.SERVE, "the distribution's self-signed stand-in certificate",
    says="The site's server block names a self-signed stand-in certificate.",
)  # fmt: skip
