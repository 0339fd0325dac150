{{/* Where settings come from; the secrets are for the service alone. */}}
{{- define "authz.envFrom" -}}
envFrom:
  - configMapRef:
      name: {{ include "authz.fullname" . }}-settings
{{- end -}}

{{- define "authz.httpProbe" -}}
httpGet:
  path: {{ . }}
  port: gateway
{{- end -}}

{{- define "authz.execProbe" -}}
exec:
  command: {{ toJson . }}
{{- end -}}

{{/* The service, with Envoy in the same container or without. */}}
{{- define "authz.service" -}}
{{- $one := eq .Values.sidecar.containers "one" -}}
{{- $loopback := eq .Values.sidecar.listen "loopback" -}}
- name: authz
  {{- include "authz.sidecarImage" . | nindent 2 }}
  args: [{{ ternary "run" "serve" $one }}]
  {{- if .Values.sidecar.native }}
  restartPolicy: Always
  {{- end }}
  {{- include "authz.envFrom" . | nindent 2 }}
  {{- if or .Values.secrets.jwtSecretKey .Values.secrets.adminTokenKey }}
  env:
    {{- with .Values.secrets.jwtSecretKey }}
    - name: JWT_SECRET
      valueFrom:
        secretKeyRef:
          name: {{ include "authz.secret" $ }}
          key: {{ . }}
    {{- end }}
    {{- with .Values.secrets.adminTokenKey }}
    - name: ADMIN_TOKEN
      valueFrom:
        secretKeyRef:
          name: {{ include "authz.secret" $ }}
          key: {{ . }}
    {{- end }}
  {{- end }}
  {{- if and $one (not $loopback) }}
  ports:
    - name: gateway
      containerPort: {{ .Values.sidecar.port }}
      protocol: TCP
  {{- end }}
  {{- /* A probe through Envoy in another container would restart this one for Envoy's faults. */}}
  {{- $health := ternary (include "authz.execProbe" (list "authz" "probe")) (include "authz.httpProbe" "/health") $loopback }}
  {{- if not $one }}
  {{- $health = include "authz.execProbe" (list "authz" "probe" "--socket") }}
  {{- end }}
  startupProbe:
    {{- $health | nindent 4 }}
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: 60
  livenessProbe:
    {{- $health | nindent 4 }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  {{- if $one }}
  readinessProbe:
    {{- ternary (include "authz.execProbe" (list "authz" "probe" "--ready")) (include "authz.httpProbe" "/ready") $loopback | nindent 4 }}
    periodSeconds: {{ ternary 10 5 $loopback }}
    timeoutSeconds: 5
  {{- end }}
  {{- if not .Values.sidecar.native }}
  lifecycle:
    preStop:
      exec:
        # Envoy, where it has a container, stops three seconds before: it is asking until then.
        command: [sleep, {{ ternary .Values.sidecar.lingerSeconds (add .Values.sidecar.lingerSeconds 3) $one | toString | quote }}]
  {{- end }}
  securityContext: {{- include "authz.restricted" . | nindent 4 }}
  resources: {{- toYaml (ternary .Values.sidecar.resources .Values.sidecar.serviceResources $one) | nindent 4 }}
  volumeMounts:
    # Whole directories: what is mounted by subPath is never updated.
    - name: mode
      mountPath: /etc/authz/mode
      readOnly: true
    {{- if .Values.policyBundle.configMap }}
    - name: policy-bundle
      mountPath: /bundle
      readOnly: true
    - name: signing-keys
      mountPath: /keys
      readOnly: true
    {{- else }}
    - name: policies
      mountPath: /policies
      readOnly: true
    {{- end }}
    {{- if .Values.jwksConfigMap }}
    - name: jwks
      mountPath: /etc/authz/jwks
      readOnly: true
    {{- end }}
    {{- if .Values.upstream.authorizationSecret.name }}
    - name: upstream-authorization
      mountPath: /etc/authz/upstream
      readOnly: true
    {{- end }}
    - name: audit
      mountPath: /data
    - name: run
      mountPath: /run/authz
    - name: authz-tmp
      mountPath: /tmp
{{- end -}}

{{- define "authz.envoy" -}}
- name: envoy
  image: {{ include "authz.image" (dict "image" .Values.sidecar.envoyImage "tag" "") }}
  {{- with .Values.sidecar.envoyImage.pullPolicy }}
  imagePullPolicy: {{ . }}
  {{- end }}
  # The whole command: its images differ in their entrypoints, and the usual one changes users.
  command: [envoy, --config-path, /run/authz/envoy.yaml, --concurrency, "1", --disable-hot-restart, --log-level, warning]
  {{- if .Values.sidecar.native }}
  restartPolicy: Always
  {{- end }}
  ports:
    - name: gateway
      containerPort: {{ .Values.sidecar.port }}
      protocol: TCP
  startupProbe:
    tcpSocket:
      port: gateway
    periodSeconds: 1
    timeoutSeconds: 2
    failureThreshold: 60
  # The port alone: /health is the service's answer, and restarting Envoy would not change it.
  livenessProbe:
    tcpSocket:
      port: gateway
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    {{- include "authz.httpProbe" "/ready" | nindent 4 }}
    periodSeconds: 5
    timeoutSeconds: 5
  {{- if not .Values.sidecar.native }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ .Values.sidecar.lingerSeconds }}
  {{- end }}
  # The service's user: the sockets in /run/authz are for it and its group.
  securityContext: {{- include "authz.restricted" . | nindent 4 }}
  resources: {{- toYaml .Values.sidecar.envoyResources | nindent 4 }}
  volumeMounts:
    - name: run
      mountPath: /run/authz
{{- end -}}

{{- define "authz.envoyConfig" -}}
- name: envoy-config
  {{- include "authz.sidecarImage" . | nindent 2 }}
  args: [envoy, config, --out, /run/authz]
  {{- include "authz.envFrom" . | nindent 2 }}
  securityContext: {{- include "authz.restricted" . | nindent 4 }}
  resources: {{- toYaml .Values.sidecar.resources | nindent 4 }}
  volumeMounts:
    - name: mode
      mountPath: /etc/authz/mode
      readOnly: true
    - name: run
      mountPath: /run/authz
{{- end -}}

{{/* As root, for a moment, before anything else runs in the pod. */}}
{{- define "authz.capture" -}}
- name: capture
  {{- include "authz.sidecarImage" . | nindent 2 }}
  command: [authz, capture, install]
  {{- with .Values.capture.args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "authz.envFrom" . | nindent 2 }}
  securityContext:
    runAsUser: 0
    runAsGroup: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
  resources: {{- toYaml .Values.sidecar.resources | nindent 4 }}
{{- end -}}
