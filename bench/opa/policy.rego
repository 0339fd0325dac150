# What the sidecar does with the request of the benchmarks, in Rego: HS256 token, policies that
# apply to the caller, globs over the action, deny before allow, default deny, governance headers.
#
# data.secret and data.policies are the sidecar's own, written by bench/contenders.py. What the
# sample policies do not use (conditions, approval, tiers required by a rule) is left out.

package sidecar.authz

import rego.v1

request := input.attributes.request.http

verbs := {
	"GET": "read", "HEAD": "read", "OPTIONS": "read",
	"POST": "write", "PUT": "write", "PATCH": "write",
	"DELETE": "delete",
}

# Words of one rung of the ladder.
rungs := {
	"unverified": 0, "untrusted": 0, "anonymous": 0, "sandboxed": 0, "restricted": 0,
	"basic": 1,
	"verified": 2, "standard": 2,
	"trusted": 3, "elevated": 3,
	"privileged": 4, "unrestricted": 4,
}

# ---------------------------------------------------------------- who asks, and for what

claims := payload if {
	[scheme, token] := split(request.headers.authorization, " ")
	lower(scheme) == "bearer"
	[valid, _, payload] := io.jwt.decode_verify(token, {
		"secret": data.secret,
		"alg": "HS256",
		"iss": "meshguard",
	})
	valid
	payload.exp # decode_verify looks at exp where there is one; here there has to be
	payload.sub
}

tags := {tag | some tag in object.get(claims, "tags", [])}

tier := object.get(claims, "tier", "unverified")

named := trim_space(object.get(request.headers, "x-meshguard-action", ""))

action := lower(named) if named != ""

action := lower(sprintf("%s:%s", [verb, path])) if {
	named == ""
	verb := object.get(verbs, request.method, "execute")
	parts := split(request.path, "?")
	path := trim_prefix(trim_prefix(parts[0], "/proxy"), "/")
}

# ---------------------------------------------------------------- what the policies say

applicable contains policy if {
	some policy in data.policies
	applies(policy)
}

# Every list that a policy has must name the caller.
applies(policy) if {
	scope := policy.appliesTo
	some_match(scope, "agentIds", {claims.sub})
	some_match(scope, "tags", tags)
	tier_matches(scope)
}

some_match(scope, key, _) if not scope[key]

some_match(scope, key, mine) if {
	some wanted in scope[key]
	some one in mine
	glob.match(wanted, null, one)
}

tier_matches(scope) if not scope.trustTiers

tier_matches(scope) if {
	some wanted in scope.trustTiers
	rungs[lower(wanted)] == rungs[lower(tier)]
}

matches(rule) if {
	some pattern in rule.actions
	glob.match(lower(pattern), null, action)
}

# Inside a policy the first rule that matches decides.
first(policy) := rule if {
	place := min([i | some i, one in policy.rules; matches(one)])
	rule := policy.rules[place]
}

says[name] := effect if {
	some policy in applicable
	name := policy.name
	rule := first(policy)
	effect := rule.effect
}

denying := sort([name | some name, effect in says; effect == "deny"])

allowing := sort([name | some name, effect in says; effect == "allow"])

# ---------------------------------------------------------------- the answer

default allowed := false

allowed if {
	claims
	count(denying) == 0
	count(allowing) > 0
}

decision := "allow" if allowed

decision := "deny" if not allowed

deciding := denying[0] if count(denying) > 0

deciding := allowing[0] if {
	count(denying) == 0
	count(allowing) > 0
}

deciding := "default" if {
	count(denying) == 0
	count(allowing) == 0
}

default agent := ""

agent := claims.sub

trace := object.get(request.headers, "x-meshguard-trace-id", object.get(request.headers, "x-request-id", ""))

governance := {
	"x-meshguard-decision": decision,
	"x-meshguard-policy": deciding,
	"x-meshguard-trace-id": trace,
	"x-meshguard-agent-id": agent,
	"x-meshguard-mode": "enforce",
}

default status := 403

status := 401 if not claims

result := {
	"allowed": true,
	"request_headers_to_remove": ["authorization"],
	"response_headers_to_add": governance,
	"dynamic_metadata": {"policy": deciding, "action": action, "decision": decision},
} if allowed

result := {
	"allowed": false,
	"http_status": status,
	"headers": object.union(governance, {"content-type": "application/json"}),
	"body": json.marshal({"error": "Forbidden", "action": action, "policy": deciding}),
	"dynamic_metadata": {"policy": deciding, "action": action, "decision": decision},
} if not allowed
