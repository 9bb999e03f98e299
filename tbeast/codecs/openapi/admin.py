"""What operators may do over HTTP, as part of an OpenAPI document; and the whole document of the report surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tbeast.codecs.adminbodies import LARGEST_PAGE, schemas
from tbeast.codecs.openapi.parts import (
    ANYTHING,
    COUNT,
    MOMENT,
    NUMBER,
    TEXT,
    TRUTH,
    Json,
    answer,
    by_name,
    document,
    header,
    in_path,
    listed,
    one_of,
    operation,
    or_null,
    query,
    record,
    ref,
    said,
)
from tbeast.codecs.openapi.prices import DOCUMENTED, KEY_SCHEMES
from tbeast.codecs.openapi.reports import report_paths, report_schemas
from tbeast.domain.clusterstats import NAMES
from tbeast.domain.feedstatus import STATES
from tbeast.domain.keyorders import LIMITS
from tbeast.domain.plans import PLANS

ADMIN_SCHEME: Final[dict[str, Json]] = {
    "adminKey": {"type": "apiKey", "in": "header", "name": "X-Admin-Key", "description": "`X-Admin-Key: KEY`"}
}
_WITH: Final[tuple[Json, ...]] = ({"adminKey": []},)
_CODES: Final = ("malformed_authorization", "missing_key", "bad_admin_key", "rate_limited")
_STORE: Final = ("store_unavailable", "conflict")

_ID: Final = in_path("id", "The key's id.", {"type": "string", "pattern": "^[!-.0-~]{1,64}$"}, "vtgzrvyz2s")
_EXCHANGE: Final = in_path("exchange", "Whose feed.", {"type": "string", "pattern": "^[a-z]{1,32}$"}, "kraken")
_NAME: Final = in_path("name", "The parameter.", {"type": "string", "pattern": "^[a-z_]{1,64}$"}, "sync_hour_utc")

_LOCATION: Final = {"Location": header("Where it is to be found.", TEXT, is_always=True)}
_REQUEST_ID: Final = {"X-Request-Id": header("Under this it stands in the log.", TEXT, is_always=True)}
_EVERYWHERE: Final[dict[str, Json]] = {"in_force_everywhere_within_seconds": COUNT}

_KEY: Final[dict[str, Json]] = {
    "id": TEXT,
    "name": TEXT,
    "tier": one_of(PLANS),
    "limits": record({name: said(or_null(NUMBER), "`null`: no limit.") for name in LIMITS}),
    "lrs_addon": said(TRUTH, "Whether it has the add-on of reports without limit."),
    "response_format": TEXT,
    "preferred_lang": TEXT,
    "month": TEXT,
    "queries_this_month": COUNT,
    "created_at": or_null(MOMENT),
    "last_used_at": or_null(MOMENT),
    "ends_at": or_null(MOMENT),
    "revoked": TRUTH,
}
_DETAILS: Final[dict[str, Json]] = {
    **_KEY,
    "email": or_null(TEXT),
    "revoked_at": or_null(MOMENT),
    "replaces": said(or_null(TEXT), "The id of the key whose place it took."),
    "replaced_by": or_null(TEXT),
}
_MADE: Final = record(
    {
        "key": said(TEXT, "The key itself: this is the only time that it is shown."),
        **_DETAILS,
        "replaced": record(_DETAILS),
        **_EVERYWHERE,
    },
    ["replaced"],
)
_PARAMETER: Final[dict[str, Json]] = {
    "name": TEXT,
    "value": said({}, "In force on this node."),
    "next_value": said({}, "After the next start."),
    "set": said(TRUTH, "Whether it stands in the database."),
    "default": {},
    "hot": said(TRUTH, "Whether a change takes effect at once."),
    "allowed": TEXT,
    "description": TEXT,
    "refused": said(or_null(TEXT), "Why what stands in the database is not taken."),
}
_CHANGE: Final = record({"name": TEXT, "before": TEXT, "after": TEXT})
_FEED: Final[dict[str, Json]] = {
    "exchange": TEXT,
    "state": one_of(STATES),
    "paused": TRUTH,
    "why": TEXT,
    "age_seconds": said(or_null(NUMBER), "Since it was heard last."),
    "connections": COUNT,
    "connected_seconds": NUMBER,
    "symbols": COUNT,
    "live_symbols": COUNT,
    "refused": listed(TEXT),
    "unacknowledged": listed(TEXT),
}
_FEED_DONE: Final = record(
    {
        "node": TEXT, **_FEED, "this_node_only": TRUTH, "kept_over_restart": TRUTH,
        "changed": TRUTH, "dropped": TRUTH, "to_be_replaced": COUNT,
    },
    ["changed", "dropped", "to_be_replaced"],
)  # fmt: skip
_SYNC: Final = record(
    {
        "state": one_of(("never", "running", "done", "failed")),
        "began_at": or_null(MOMENT),
        "ended_at": or_null(MOMENT),
        "step": or_null(TEXT),
        "rows_done": COUNT,
        "rows_expected": or_null(COUNT),
        "outcome": or_null(TEXT),
    }
)
_STATISTICS: Final = record(dict.fromkeys(NAMES, NUMBER), NAMES)


def surface(version: str, has_admin: bool) -> Json:
    """The document of the report surface.

    @param version: of tbeast.
    @param has_admin: whether there is /admin.
    """
    tags = {"reports": "What was asked and answered, and what was billed. HEAD is answered wherever GET is."}
    paths, parts = report_paths(), report_schemas()
    if has_admin:
        tags["admin"] = "What operators may do to a running daemon."
        paths |= admin_paths()
        parts |= _schemas()
    return document(
        "tbeast: reports and administration" if has_admin else "tbeast: reports",
        "What was used, and by whom; a key sees its own.",
        {**paths, **DOCUMENTED},
        tags={**tags, "about": "The port itself."},
        schemas=parts,
        schemes=KEY_SCHEMES | ADMIN_SCHEME,
        version=version,
    )


def admin_paths() -> dict[str, Json]:
    """What operators may do, by path."""
    bodies = schemas()
    bodies["NewKey"]["properties"]["tier"] = {**one_of(PLANS), "default": "free"}
    bodies["Edit"]["properties"]["tier"] = one_of(PLANS)
    keys = ("unknown_key", *_STORE)
    return {
        "/admin": {"get": _call("getAdmin", "What there is", ref("Places"))},
        "/admin/keys": {
            "get": _call(
                "listKeys", "The keys of the database", ref("Keys"),
                codes=("malformed_parameter", "unknown_parameter", "duplicate_parameter", "bad_cursor", *_STORE),
                parameters=(
                    query("cursor", "Where the page before has ended, as that says.", TEXT),
                    query(
                        "page_size", "So many at most.", {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE},
                        example=100,
                    ),
                    query("tier", "Those of this tier.", TEXT, example="pro"),
                    query("name", "Those of this name.", TEXT),
                    query("revoked", "Whether revoked ones are listed.", one_of(("false", "true", "all"))),
                ),
            ),
            "post": _call(
                "createKey", "Make a key", ref("MadeKey"), codes=("malformed_body", "malformed_parameter", *_STORE),
                body=bodies["NewKey"], status=201,
            ),
        },
        "/admin/keys/{id}": {
            "get": _call("getKey", "A key", ref("Key"), codes=keys, parameters=(_ID,)),
            "patch": _call(
                "changeKey", "Change a key's tier, limits or add-on", ref("ChangedKey"),
                codes=("malformed_body", "malformed_parameter", *keys), parameters=(_ID,), body=bodies["Edit"],
            ),
        },
        "/admin/keys/{id}/revoke": {
            "post": _call(
                "revokeKey", "Revoke a key, for good", ref("RevokedKey"), codes=("malformed_body", *keys),
                parameters=(_ID,), body=bodies["Nothing"], needs_body=False,
            )
        },
        "/admin/keys/{id}/rotate": {
            "post": _call(
                "rotateKey", "Put a new key in a key's place", ref("MadeKey"), codes=("malformed_body", *keys),
                parameters=(_ID,), body=bodies["Grace"], needs_body=False, status=201,
            )
        },
        "/admin/invalidate-key": {
            "post": _call(
                "invalidateKey", "Have every node read a key anew", ref("InvalidatedKey"),
                codes=("malformed_body", *keys), body=bodies["KeyId"],
            )
        },
        "/admin/parameters": {
            "get": _call("listParameters", "The parameters", ref("Parameters"), codes=_STORE),
        },
        "/admin/parameters/{name}": {
            "get": _call(
                "getParameter", "A parameter", ref("Parameter"), codes=("not_found", *_STORE), parameters=(_NAME,)
            ),
            "put": _call(
                "setParameter", "Set a parameter", ref("Parameter"), parameters=(_NAME,), body=bodies["Value"],
                codes=("not_found", "malformed_body", "malformed_parameter", *_STORE),
            ),
            "delete": _call(
                "unsetParameter", "Take a parameter back to its default", ref("UnsetParameter"), parameters=(_NAME,),
                codes=("not_found", "malformed_body", *_STORE),
            ),
        },
        "/admin/parameters/reload": {
            "post": _call(
                "reloadParameters", "Read the parameters again", ref("Reloaded"), codes=("malformed_body", *_STORE),
                body=bodies["Nothing"], needs_body=False,
            )
        },
        "/admin/feeds": {"get": _call("listFeeds", "The feeds of this node", ref("Feeds"))},
        "/admin/feeds/{exchange}": {
            "get": _call("getFeed", "A feed", ref("Feed"), codes=("not_found",), parameters=(_EXCHANGE,))
        },
        "/admin/feeds/{exchange}/reconnect": {
            "post": _feed_call("reconnectFeed", "Replace a feed's connections", bodies["Drop"], "conflict")
        },
        "/admin/feeds/{exchange}/pause": {
            "post": _feed_call("pauseFeed", "Take none of an exchange's prices any more", bodies["Nothing"])
        },
        "/admin/feeds/{exchange}/resume": {
            "post": _feed_call("resumeFeed", "Take an exchange's prices again", bodies["Nothing"])
        },
        "/admin/sync": {
            "get": _call("getSync", "How the sync job is doing", ref("Sync")),
            "post": _call(
                "beginSync", "Begin the sync job", ref("Sync"), codes=("malformed_body", *_STORE),
                body=bodies["Full"], needs_body=False, status=202,
            ),
        },
        "/admin/cluster-stats": {
            "get": _call("getClusterStats", "The statistics of every node", ref("ClusterStats"),
                         codes=("unknown_parameter", "malformed_parameter"))
        },
        "/admin/governor": {
            "get": _call("getGovernor", "The governor of connections", ref("Governor")),
            "post": _call(
                "setMaxConnections", "Set how many connections the cluster holds at most", ref("Governor"),
                codes=("malformed_body", "malformed_parameter", *_STORE), body=bodies["Most"],
            ),
        },
    }  # fmt: skip


def _call(
    name: str, summary: str, schema: Json, *, codes: Sequence[str] = (), parameters: Sequence[Json] = (),
    body: Json | None = None, needs_body: bool = True, status: int = 200,
) -> Json:  # fmt: skip
    fields = {**_REQUEST_ID, **({} if status == 200 else _LOCATION)}
    told = operation(
        name, "admin", summary, f"{summary}.", {str(status): answer("As it is then.", schema, fields)},
        codes=(*_CODES, *codes), parameters=parameters, body=body, security=_WITH,
    )  # fmt: skip
    if body is not None and not needs_body:
        told["requestBody"]["required"] = False
    return told


def _feed_call(name: str, summary: str, body: Json, *codes: str) -> Json:
    return _call(
        name, summary, ref("ChangedFeed"), codes=("not_found", "malformed_body", *codes), parameters=(_EXCHANGE,),
        body=body, needs_body=False,
    )  # fmt: skip


def _schemas() -> dict[str, Any]:
    place = record({"method": TEXT, "path": TEXT, "what": TEXT})
    return {
        "Places": record({"node": TEXT, "time": MOMENT, "places": listed(place)}),
        "Keys": record(
            {"keys": listed(record(_KEY)), "cursor": said(or_null(TEXT), "Leads to the next page; `null`: none.")}
        ),
        "Key": record(_DETAILS),
        "ChangedKey": record({**_DETAILS, **_EVERYWHERE}),
        "RevokedKey": record({**_DETAILS, "was_good": TRUTH, **_EVERYWHERE}),
        "InvalidatedKey": record({"in_database": TRUTH, **_DETAILS, **_EVERYWHERE}, set(_DETAILS) - {"id"}),
        "MadeKey": _MADE,
        "Parameters": record(
            {
                "parameters": listed(record(_PARAMETER)),
                "unknown": said(listed(TEXT), "Rows of the database that are no parameter."),
                "elsewhere_within_seconds": NUMBER,
            }
        ),
        "Parameter": record({**_PARAMETER, "elsewhere_within_seconds": NUMBER}),
        "UnsetParameter": record(
            {**_PARAMETER, "elsewhere_within_seconds": NUMBER, "was_set": TRUTH},
            [*_PARAMETER, "elsewhere_within_seconds"],
        ),
        "Reloaded": record(
            {
                "source": TEXT, "changes": listed(_CHANGE), "at_restart": listed(_CHANGE),
                "refused": listed(record({"name": TEXT, "why": TEXT})), "unknown": listed(TEXT),
            }
        ),
        "Feeds": record({"node": TEXT, "paused": listed(TEXT), "feeds": listed(record(_FEED))}),
        "Feed": record({"node": TEXT, **_FEED}),
        "ChangedFeed": _FEED_DONE,
        "Sync": _SYNC,
        "ClusterStats": record(
            {"complete": TRUTH, "why": or_null(TEXT), "nodes": by_name(_STATISTICS), "total": _STATISTICS}
        ),
        "Governor": said(ANYTHING, "This node, and every other as it was heard last."),
    }  # fmt: skip
