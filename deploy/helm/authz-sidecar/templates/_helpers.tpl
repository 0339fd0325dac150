{{- define "authz.fullname" -}}
{{- /* An agent's id may be anything; a name in Kubernetes may not. */ -}}
{{- $name := default .Values.agent.id .Values.nameOverride | lower | regexFind "[a-z0-9].*" -}}
{{- $name = regexReplaceAll "[^a-z0-9]+" $name "-" | trimSuffix "-" | default "agent" -}}
{{- default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "authz.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "authz.labels" -}}
{{ include "authz.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image, `tag` being the one to use where none is given. */}}
{{- define "authz.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end -}}

{{- define "authz.sidecarImage" -}}
image: {{ include "authz.image" (dict "image" .Values.sidecar.image "tag" .Chart.AppVersion) }}
{{- with .Values.sidecar.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{- define "authz.policies" -}}
{{ default (printf "%s-policies" (include "authz.fullname" .)) .Values.existingPolicies }}
{{- end -}}

{{- define "authz.secret" -}}
{{ default (include "authz.fullname" .) .Values.secrets.existingSecret }}
{{- end -}}

{{- define "authz.restricted" -}}
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Changes with the secrets that the chart makes; too short to try guesses against. */}}
{{- define "authz.secretsChecksum" -}}
{{- printf "%s\n%s" .Values.secrets.jwtSecret .Values.secrets.adminToken | sha256sum | trunc 8 -}}
{{- end -}}

{{/* The settings of the sidecar that need no secret, as of the ConfigMap. */}}
{{- define "authz.settings" -}}
{{- $settings := dict
  "HOST" (ternary "127.0.0.1" "0.0.0.0" (eq .Values.sidecar.listen "loopback"))
  "PORT" (toString .Values.sidecar.port)
  "PROXY_TARGET" .Values.upstream.target
  "SIDECAR_AGENT_ID" .Values.agent.id
  "MODE_FILE" "/etc/authz/mode/MODE"
  "AUDIT_DB_PATH" "/data/audit.db"
  "AUTHZ_RUN_DIR" "/run/authz" -}}
{{- if .Values.policyBundle.configMap -}}
{{- /* The image has one, which does not count here. */ -}}
{{- $_ := set $settings "POLICIES_DIR" "" -}}
{{- $_ := set $settings "POLICY_BUNDLE" "/bundle/policies.tar.gz" -}}
{{- $_ := set $settings "POLICY_BUNDLE_KEYS" "/keys" -}}
{{- $_ := set $settings "REQUIRE_SIGNED_POLICIES" "true" -}}
{{- else -}}
{{- $_ := set $settings "POLICIES_DIR" "/policies" -}}
{{- end -}}
{{- if .Values.upstream.authorizationSecret.name -}}
{{- $_ := set $settings "PROXY_AUTHORIZATION_FILE" "/etc/authz/upstream/authorization" -}}
{{- end -}}
{{- if .Values.jwksConfigMap -}}
{{- $_ := set $settings "JWKS_FILE" "/etc/authz/jwks/jwks.json" -}}
{{- end -}}
{{- with .Values.agent.tier -}}
{{- $_ := set $settings "SIDECAR_AGENT_TIER" . -}}
{{- end -}}
{{- with .Values.agent.tags -}}
{{- $_ := set $settings "SIDECAR_AGENT_TAGS" . -}}
{{- end -}}
{{- if .Values.capture.enabled -}}
{{- $_ := set $settings "CAPTURE_PORT" (toString .Values.capture.port) -}}
{{- $_ := set $settings "FORWARD_PROXY_PORT" (toString .Values.capture.forwardProxyPort) -}}
{{- end -}}
{{- range $name, $value := .Values.sidecar.settings -}}
{{- if has $name (list "MODE" "JWT_SECRET" "ADMIN_TOKEN" "PROXY_AUTHORIZATION") -}}
{{- fail (printf "sidecar.settings.%s: is set by mode, secrets or upstream, as it is followed or secret" $name) -}}
{{- end -}}
{{- if hasKey $settings $name -}}
{{- fail (printf "sidecar.settings.%s: has a value of its own in values.yaml, or is made from one" $name) -}}
{{- end -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* What cannot work together, each as one sentence. */}}
{{- define "authz.check" -}}
{{- range $name, $_ := .Values.podLabels -}}
{{- if has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance") -}}
{{- fail (printf "podLabels.%s: is what the pods are selected by; choose another label" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.policies -}}
{{- if not (regexMatch "^[-_a-zA-Z0-9][-._a-zA-Z0-9]*\\.ya?ml$" $name) -}}
{{- fail (printf "policies: %s is no name of a policy file; it must end in .yaml or .yml" $name) -}}
{{- end -}}
{{- end -}}
{{- $reserved := list "mode" "policies" "policy-bundle" "signing-keys" "audit" "run" "authz-tmp" "agent-tmp" "jwks" "upstream-authorization" -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $reserved -}}
{{- fail (printf "extraVolumes: the name %s is the sidecar's; choose another" .name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraVolumes -}}
{{- if hasKey . "hostPath" -}}
{{- fail (printf "extraVolumes: %s is a hostPath, and the agent may have nothing of the node's; take another kind of volume" .name) -}}
{{- end -}}
{{- end -}}
{{- /* Not in the schema, whose error is that 'not' failed. */ -}}
{{- range $name := list "runAsUser" "runAsGroup" -}}
{{- if eq (int (get $.Values.agent $name)) 10001 -}}
{{- fail (printf "agent.%s: 10001 is the sidecar's; choose another" $name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.agent.env -}}
{{- if has .name (list "API_BASE_URL" "MESHGUARD_GATEWAY_URL") -}}
{{- fail (printf "agent.env: %s is set by the chart, to the sidecar; leave it out" .name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.agent.volumeMounts -}}
{{- if has .name $reserved -}}
{{- fail (printf "agent.volumeMounts: the agent may not have the sidecar's volume %s" .name) -}}
{{- end -}}
{{- end -}}
{{- $secret := include "authz.secret" . -}}
{{- range concat .Values.agent.env .Values.agent.envFrom .Values.extraVolumes -}}
{{- if contains (printf ":%s" (quote $secret)) (toJson .) -}}
{{- fail (printf "agent: it may not have the sidecar's own Secret %s, neither as variables nor as a volume" $secret) -}}
{{- end -}}
{{- end -}}
{{- range .Values.agent.ports -}}
{{- if has (int .containerPort) (list (int $.Values.sidecar.port) (int $.Values.capture.port) (int $.Values.capture.forwardProxyPort)) -}}
{{- fail (printf "agent.ports: %d is a port of the sidecar; choose another, or change sidecar.port or capture" (int .containerPort)) -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add 8 .Values.sidecar.lingerSeconds | int) -}}
{{- fail "terminationGracePeriodSeconds: must be 8 more than sidecar.lingerSeconds at least, or requests in flight are cut off" -}}
{{- end -}}
{{- if and (eq .Values.sidecar.listen "loopback") (eq .Values.sidecar.containers "two") -}}
{{- fail "sidecar.listen: loopback needs sidecar.containers: one, as a stock Envoy has no command to probe with" -}}
{{- end -}}
{{- if and (eq .Values.sidecar.listen "loopback") .Values.networkPolicy.ingressFrom -}}
{{- fail "networkPolicy.ingressFrom: nobody can reach sidecar.listen: loopback; leave one of them out" -}}
{{- end -}}
{{- if not .Values.secrets.existingSecret -}}
{{- if and .Values.secrets.jwtSecretKey (not .Values.secrets.jwtSecret) -}}
{{- fail "secrets.existingSecret: name a Secret with the keys jwt-secret and admin-token, or set secrets.jwtSecret (openssl rand -hex 32)" -}}
{{- end -}}
{{- if and .Values.secrets.adminTokenKey (not .Values.secrets.adminToken) -}}
{{- fail "secrets.adminToken: set it (openssl rand -hex 16), or secrets.adminTokenKey to \"\" for no admin API" -}}
{{- end -}}
{{- end -}}
{{- /* Not in the schema, whose errors print the value. */ -}}
{{- if not (regexMatch "^([!-~]{32,})?$" .Values.secrets.jwtSecret) -}}
{{- fail "secrets.jwtSecret: must be 32 printable characters or more; make one with: openssl rand -hex 32" -}}
{{- end -}}
{{- if not (regexMatch "^([!-~]{16,})?$" .Values.secrets.adminToken) -}}
{{- fail "secrets.adminToken: must be 16 printable characters or more; make one with: openssl rand -hex 16" -}}
{{- end -}}
{{- if not (or .Values.secrets.jwtSecretKey .Values.jwksConfigMap) -}}
{{- fail "jwksConfigMap: needed where secrets.jwtSecretKey is empty; without either nobody's token can be verified" -}}
{{- end -}}
{{- if ne (empty .Values.policyBundle.configMap) (empty .Values.policyBundle.keysConfigMap) -}}
{{- fail "policyBundle: a bundle and the keys that it must be signed with go together; set configMap and keysConfigMap" -}}
{{- end -}}
{{- if and .Values.policyBundle.configMap (or .Values.existingPolicies .Values.policies) -}}
{{- fail "policyBundle: nothing else counts beside it; leave policies and existingPolicies out" -}}
{{- end -}}
{{- if and (not .Values.existingPolicies) (not .Values.policies) (not .Values.policyBundle.configMap) -}}
{{- fail "policies: there is none, so everything would be denied; write one, or name a ConfigMap in existingPolicies" -}}
{{- end -}}
{{- end -}}
