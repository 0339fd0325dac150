"""The HTTP filters: who asks for the decision, and what never reaches the upstream.

- What is ours never reaches the upstream even if nobody answers the ext_authz call: the upstream's
  own filters strip it, and a credential that looks like a token when the call failed open.
"""

from pathlib import Path
from typing import Final

from authz.core.mode import Mode
from authz.core.names import ADMIN_HEADER, GOVERNANCE_PREFIX, PROXY_AUTHORIZATION_HEADER
from authz.envoy_config.parts import Config, milliseconds, type_url

#: The cluster that is asked.
EXT_AUTHZ_CLUSTER: Final = "ext_authz"
EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
_OVERRIDES: Final = (
    "forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
)
ENVOY_PREFIX: Final = "x-envoy-"
_FAILED_OPEN: Final = "x-envoy-auth-failure-mode-allowed"
_HEADER_MUTATION: Final = "extensions.filters.http.header_mutation.v3.HeaderMutation"


def ext_authz_discovery(mode: Mode, decision_timeout_ms: int) -> Config:
    """The file that the listener's ECDS subscription reads: a DiscoveryResponse with the filter."""
    return {
        "version_info": str(mode),
        "resources": [
            {
                "@type": type_url("config.core.v3.TypedExtensionConfig"),
                "name": EXT_AUTHZ,
                "typed_config": {
                    "@type": type_url("extensions.filters.http.ext_authz.v3.ExtAuthz"),
                    "transport_api_version": "V3",
                    "grpc_service": {
                        "envoy_grpc": {"cluster_name": EXT_AUTHZ_CLUSTER},
                        "timeout": milliseconds(decision_timeout_ms),
                    },
                    # Broken is not denied in enforce mode, and never blocks in the others.
                    "failure_mode_allow": mode is not Mode.ENFORCE,
                    "failure_mode_allow_header_add": True,
                    "status_on_error": {"code": "ServiceUnavailable"},
                    "stat_prefix": "sidecar",
                },
            }
        ],
    }


def ext_authz_subscription(file: Path) -> Config:
    """The filter that asks, taken from the file that a change of mode replaces."""
    return {
        "name": EXT_AUTHZ,
        "config_discovery": {
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(file),
                    "watched_directory": {"path": str(file.parent)},
                },
            },
            "type_urls": [type_url("extensions.filters.http.ext_authz.v3.ExtAuthz")],
        },
    }


def strip_envoy() -> Config:
    """Removes a client's x-envoy-* before anything reads them.

    They would steer retries and timeouts, and could claim that a check failed open.
    """
    return {
        "name": "strip_envoy",
        "typed_config": {
            "@type": type_url(
                "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
            ),
            "mutations": [remove_prefix(ENVOY_PREFIX)],
        },
    }


def strip() -> Config:
    """Removes what is ours from requests to the upstream, and imitations from its answers.

    It stands in the upstream's own filter chain: answers that Envoy or the service makes do not
    pass it and keep their headers.
    """
    return {
        "name": "strip",
        "typed_config": {
            "@type": type_url(_HEADER_MUTATION),
            "mutations": {
                "request_mutations": [
                    remove_prefix(GOVERNANCE_PREFIX),
                    remove_prefix(ENVOY_PREFIX),
                    *({"remove": name} for name in (ADMIN_HEADER, PROXY_AUTHORIZATION_HEADER)),
                    # Some frameworks let these override the method, path, host or client that
                    # was judged.
                    *({"remove": name} for name in _OVERRIDES),
                    remove_prefix("x-forwarded-"),
                ],
                "response_mutations": [remove_prefix(GOVERNANCE_PREFIX)],
            },
        },
    }


def strip_and_send() -> list[Config]:
    """The filters of a cluster that is not the service's."""
    codec = {
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {
            "@type": type_url("extensions.filters.http.upstream_codec.v3.UpstreamCodec")
        },
    }
    return [strip(), codec]


def remove_prefix(prefix: str) -> Config:
    """A mutation that removes the headers whose names begin so."""
    return {"remove_on_match": {"key_matcher": {"prefix": prefix}}}


def strip_failed_open() -> Config:
    """When the check failed open nobody looked at the token, so anything like one is removed."""

    def header(name: str, value: Config) -> Config:
        return {
            "single_predicate": {
                "input": {
                    "name": name,
                    "typed_config": {
                        "@type": type_url("type.matcher.v3.HttpRequestHeaderMatchInput"),
                        "header_name": name,
                    },
                },
                "value_match": value,
            }
        }

    failed_open = header(_FAILED_OPEN, {"exact": "true"})
    # Both parts of a JWT start with the base64 of `{"`, whatever scheme stands before them.
    pattern = {"google_re2": {}, "regex": r".*eyJ[\w-]*\.eyJ.*"}
    token = header("authorization", {"safe_regex": pattern})
    return {
        "name": "strip_failed_open",
        "typed_config": {
            "@type": type_url("extensions.common.matching.v3.ExtensionWithMatcher"),
            "extension_config": {
                "name": "composite",
                "typed_config": {
                    "@type": type_url("extensions.filters.http.composite.v3.Composite")
                },
            },
            "xds_matcher": {
                "matcher_list": {
                    "matchers": [
                        {
                            "predicate": {"and_matcher": {"predicate": [failed_open, token]}},
                            "on_match": {
                                "action": {
                                    "name": "strip",
                                    "typed_config": {
                                        "@type": type_url(
                                            "extensions.filters.http.composite.v3."
                                            "ExecuteFilterAction"
                                        ),
                                        "typed_config": {
                                            "name": "strip",
                                            "typed_config": {
                                                "@type": type_url(_HEADER_MUTATION),
                                                "mutations": {
                                                    "request_mutations": [
                                                        {"remove": "authorization"}
                                                    ]
                                                },
                                            },
                                        },
                                    },
                                }
                            },
                        }
                    ]
                }
            },
        },
    }
