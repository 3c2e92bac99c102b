{{/* What every pod has. */}}
{{- define "agent-fleet.pod" -}}
serviceAccountName: {{ include "agent-fleet.serviceAccount" . }}
{{ include "agent-fleet.sandbox" . }}
{{- end -}}

{{/* The same without the account, which does not exist yet when a release is migrated for the first time. */}}
{{- define "agent-fleet.sandbox" -}}
automountServiceAccountToken: false
# a Service called fleet would else be told as FLEET_PORT and the like
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "agent-fleet.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Processes of one kind on different machines and in different zones, where there are any. Takes labels. */}}
{{- define "agent-fleet.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $.labels | nindent 8 }}
    # each revision for itself: else a rolling update counts what it replaces
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end -}}

{{/* One variable from an existing Secret. Takes variable and from. */}}
{{- define "agent-fleet.fromSecret" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .from.name }}
      key: {{ .from.key }}
{{- end -}}

{{/* Where Temporal is. */}}
{{- define "agent-fleet.temporal" -}}
- name: TEMPORAL_ADDRESS
  value: {{ .Values.temporal.address | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ .Values.temporal.namespace | quote }}
{{- if .Values.temporal.apiKey.name }}
{{ include "agent-fleet.fromSecret" (dict "variable" "TEMPORAL_API_KEY" "from" .Values.temporal.apiKey) }}
{{- end }}
{{- if .Values.temporal.mtls.secret }}
- name: TEMPORAL_TLS_CLIENT_CERT_PATH
  value: /etc/fleet/tls/temporal-client/tls.crt
- name: TEMPORAL_TLS_CLIENT_KEY_PATH
  value: /etc/fleet/tls/temporal-client/tls.key
{{- end }}
{{- end -}}

{{/* The environment of a container. Takes root, secrets, owner; temporal, redis, database: whether it uses them. */}}
{{- define "agent-fleet.environment" -}}
{{- $values := .root.Values -}}
- name: FLEET_MANIFEST
  value: /etc/fleet/manifest/fleet.toml
- name: FLEET_STATE_DIR
  value: /var/lib/fleet
- name: FLEET_LOG_FORMAT
  value: json
- name: FLEET_LOG_LEVEL
  value: {{ $values.telemetry.logLevel }}
{{- range $name, $value := $values.environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $values.payloads.store }}
- name: FLEET_PAYLOAD_STORE
  value: {{ . | quote }}
{{- end }}
{{- with $values.payloads.threshold }}
- name: FLEET_PAYLOAD_THRESHOLD
  value: {{ . | int | quote }}
{{- end }}
{{- with $values.payloads.compression }}
- name: FLEET_PAYLOAD_COMPRESSION
  value: {{ . }}
{{- end }}
{{- with $values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if .temporal }}
{{ include "agent-fleet.temporal" .root }}
{{- end }}
{{- if .temporalTls }}
{{- if and $values.temporal.tls.enabled (or .temporal (not $values.temporal.mtls.secret)) }}
- name: TEMPORAL_TLS
  value: "true"
{{- end }}
{{- with $values.temporal.tls.serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if $values.temporal.tls.ca.name }}
- name: TEMPORAL_TLS_SERVER_CA_CERT_PATH
  value: /etc/fleet/tls/temporal-ca/ca.crt
{{- end }}
{{- end }}
{{- if and .serves $values.serverTls.secret }}
- name: FLEET_TLS_CERTIFICATE
  value: /etc/fleet/tls/server/tls.crt
- name: FLEET_TLS_KEY
  value: /etc/fleet/tls/server/tls.key
{{- end }}
{{- if .redis }}
{{ include "agent-fleet.fromSecret" (dict "variable" "FLEET_REDIS_URL" "from" $values.redis.url) }}
{{- end }}
{{- if .database }}
{{ include "agent-fleet.fromSecret" (dict "variable" "FLEET_DATABASE_URL" "from" (default $values.database.url .databaseUrl)) }}
{{- end }}
{{- range .secrets }}
{{- $from := get $values.secrets . }}
{{- if not $from }}
{{- fail (printf "%s needs %s, and secrets does not say where it is: set secrets.%s to {name: …, key: …} of an existing Secret" $.owner . .) }}
{{- end }}
{{ include "agent-fleet.fromSecret" (dict "variable" . "from" $from) }}
{{- end }}
{{- with .more }}
{{ . }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes what the environment takes. */}}
{{- define "agent-fleet.mounts" -}}
- name: manifest
  mountPath: /etc/fleet/manifest
  readOnly: true
- name: state
  mountPath: /var/lib/fleet
- name: temporary
  mountPath: /tmp
{{- if and .temporal .root.Values.temporal.mtls.secret }}
- name: temporal-client
  mountPath: /etc/fleet/tls/temporal-client
  readOnly: true
{{- end }}
{{- if and .temporalTls .root.Values.temporal.tls.ca.name }}
- name: temporal-ca
  mountPath: /etc/fleet/tls/temporal-ca
  readOnly: true
{{- end }}
{{- if and .redis .root.Values.redis.tls.secret }}
- name: redis-tls
  mountPath: /etc/fleet/tls/redis
  readOnly: true
{{- end }}
{{- if and .database .root.Values.database.tls.secret }}
- name: database-tls
  mountPath: /etc/fleet/tls/database
  readOnly: true
{{- end }}
{{- if and .serves .root.Values.serverTls.secret }}
- name: server-tls
  mountPath: /etc/fleet/tls/server
  readOnly: true
{{- end }}
{{- with .moreMounts }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Takes what the environment takes, and manifest: the ConfigMap's name. */}}
{{- define "agent-fleet.volumes" -}}
- name: manifest
  configMap:
    name: {{ .manifest }}
- name: state
  emptyDir:
    sizeLimit: {{ .root.Values.stateSize }}
- name: temporary
  emptyDir:
    sizeLimit: {{ .root.Values.temporarySize }}
{{- if and .temporal .root.Values.temporal.mtls.secret }}
- name: temporal-client
  secret:
    secretName: {{ .root.Values.temporal.mtls.secret }}
    defaultMode: 0440
{{- end }}
{{- if and .temporalTls .root.Values.temporal.tls.ca.name }}
- name: temporal-ca
  secret:
    secretName: {{ .root.Values.temporal.tls.ca.name }}
    items:
      - key: {{ .root.Values.temporal.tls.ca.key }}
        path: ca.crt
    defaultMode: 0440
{{- end }}
{{- if and .redis .root.Values.redis.tls.secret }}
- name: redis-tls
  secret:
    secretName: {{ .root.Values.redis.tls.secret }}
    defaultMode: 0440
{{- end }}
{{- if and .database .root.Values.database.tls.secret }}
- name: database-tls
  secret:
    secretName: {{ .root.Values.database.tls.secret }}
    defaultMode: 0440
{{- end }}
{{- if and .serves .root.Values.serverTls.secret }}
- name: server-tls
  secret:
    secretName: {{ .root.Values.serverTls.secret }}
    defaultMode: 0440
{{- end }}
{{- with .moreVolumes }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Takes root, path and port. */}}
{{- define "agent-fleet.probe" -}}
httpGet: { path: {{ .path }}, port: {{ .port }}, scheme: {{ ternary "HTTPS" "HTTP" (ne .root.Values.serverTls.secret "") }} }
{{- end -}}

{{/* Takes root and resources. */}}
{{- define "agent-fleet.resources" -}}
resources:
  {{- toYaml (default .root.Values.resources .resources) | nindent 2 }}
{{- end -}}
