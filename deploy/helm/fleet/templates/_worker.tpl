{{/* The pods of a pool. Takes root, pool, spec, build (id, image, manifest: the ConfigMap's name). */}}
{{- define "agent-fleet.workerLabels" -}}
{{ include "agent-fleet.selector" (dict "root" .root "component" "worker") }}
agent-fleet/pool: {{ .pool | quote }}
{{- if and .build.id (eq .root.Values.versioning.mode "fleet") }}
agent-fleet/build: {{ .build.id | quote }}
{{- end }}
{{- end -}}

{{- define "agent-fleet.worker" -}}
{{- $root := .root -}}
{{- $spec := .spec -}}
{{- $controlled := eq $root.Values.versioning.mode "controller" -}}
{{- $uses := dict "root" $root "owner" (printf "pools.%s" .pool) "secrets" $spec.secrets "serves" true "temporal" (not $controlled) "temporalTls" true "redis" true "database" $spec.database "manifest" .build.manifest -}}
{{- $more := include "agent-fleet.workerEnvironment" . -}}
{{- $_ := set $uses "more" $more -}}
{{- with $spec.volumes }}{{- $_ := set $uses "moreVolumes" (toYaml .) }}{{- end -}}
{{- with $spec.volumeMounts }}{{- $_ := set $uses "moreMounts" (toYaml .) }}{{- end -}}
metadata:
  labels:
    {{- include "agent-fleet.workerLabels" . | nindent 4 }}
    {{- if $spec.database }}
    agent-fleet/reaches-database: "true"
    {{- end }}
    {{- if $spec.providers }}
    agent-fleet/reaches-providers: "true"
    {{- end }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := $root.Values.podAnnotations }}
  {{- if eq $root.Values.versioning.mode "none" }}
  {{- /* another manifest, other processes: with versions the ConfigMap's name tells */}}
  {{- $annotations = merge (dict "agent-fleet/manifest-checksum" (sha256sum $root.Values.manifest)) $annotations }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "agent-fleet.pod" $root | nindent 2 }}
  # longer than the worker's own `drain`. No preStop: no Service leads to a worker, and SIGTERM is when it stops to poll
  terminationGracePeriodSeconds: {{ add (ceil $spec.drainSeconds) 15 }}
  {{- include "agent-fleet.spread" (dict "labels" (include "agent-fleet.workerLabels" .)) | nindent 2 }}
  containers:
    - name: worker
      image: {{ .build.image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [worker, {{ .pool | quote }}]
      {{- include "agent-fleet.containerSecurity" $root | nindent 6 }}
      env:
        {{- include "agent-fleet.environment" $uses | nindent 8 }}
      ports:
        - name: health
          containerPort: 8303
      # at start it asks every component and provider that it needs: up to two minutes before it is given up
      startupProbe:
        {{- include "agent-fleet.probe" (dict "root" $root "path" "/live" "port" "health") | nindent 8 }}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 60
      # the event loop turns; nothing else is cured by starting it again
      livenessProbe:
        {{- include "agent-fleet.probe" (dict "root" $root "path" "/live" "port" "health") | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      # Temporal and Redis answer: a rollout goes no further where they do not
      readinessProbe:
        {{- include "agent-fleet.probe" (dict "root" $root "path" "/ready" "port" "health") | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      {{- include "agent-fleet.resources" (dict "root" $root "resources" $spec.resources) | nindent 6 }}
      volumeMounts:
        {{- include "agent-fleet.mounts" $uses | nindent 8 }}
  volumes:
    {{- include "agent-fleet.volumes" $uses | nindent 4 }}
{{- end -}}

{{- define "agent-fleet.workerEnvironment" -}}
- name: FLEET_HEALTH_HOST
  value: 0.0.0.0
- name: FLEET_HEALTH_PORT
  value: "8303"
{{- with .root.Values.telemetry.metricsTenants }}
- name: FLEET_METRICS_TENANTS
  value: {{ . | int | quote }}
{{- end }}
{{- if eq .root.Values.versioning.mode "controller" }}
# The controller's own variables come after these, so $(TEMPORAL_WORKER_BUILD_ID) would stay as it is written; its label
# is on the pod before the container starts.
- name: FLEET_BUILD_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['temporal.io/build-id']
{{- else }}
# also where it is empty: the image may have been built with one
- name: FLEET_BUILD_ID
  value: {{ ternary .build.id "" (eq .root.Values.versioning.mode "fleet") | quote }}
{{- end }}
{{- end -}}

{{/* Whoever serves HTTP beside the workers. Takes root, name (component), args, port, uses, spec, live and ready paths. */}}
{{- define "agent-fleet.server" -}}
{{- $labels := include "agent-fleet.selector" (dict "root" .root "component" .component) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "agent-fleet.object" (list (include "agent-fleet.fullname" .root) .component) }}
  labels:
    {{- include "agent-fleet.labels" (dict "root" .root "component" .component) | nindent 4 }}
spec:
  replicas: {{ default 1 .spec.replicas }}
  revisionHistoryLimit: 5
  strategy:
    {{- toYaml .strategy | nindent 4 }}
  selector:
    matchLabels:
      {{- $labels | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $labels | nindent 8 }}
        {{- if .uses.database }}
        agent-fleet/reaches-database: "true"
        {{- end }}
        {{- if .providers }}
        agent-fleet/reaches-providers: "true"
        {{- end }}
        {{- with .root.Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        agent-fleet/manifest-checksum: {{ sha256sum .root.Values.manifest }}
        {{- with .root.Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "agent-fleet.pod" .root | nindent 6 }}
      terminationGracePeriodSeconds: 30
      {{- include "agent-fleet.spread" (dict "labels" $labels) | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ include "agent-fleet.image" (dict "root" .root) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          {{- include "agent-fleet.containerSecurity" .root | nindent 10 }}
          env:
            {{- include "agent-fleet.environment" .uses | nindent 12 }}
          ports:
            - name: http
              containerPort: {{ .spec.port }}
          startupProbe:
            {{- include "agent-fleet.probe" (dict "root" .root "path" "/live" "port" "http") | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 60
          livenessProbe:
            {{- include "agent-fleet.probe" (dict "root" .root "path" "/live" "port" "http") | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            {{- include "agent-fleet.probe" (dict "root" .root "path" .ready "port" "http") | nindent 12 }}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 3
          {{- if .drained }}
          # until every router has heard that it is going
          lifecycle:
            preStop:
              sleep: { seconds: 5 }
          {{- end }}
          {{- include "agent-fleet.resources" (dict "root" .root "resources" .spec.resources) | nindent 10 }}
          volumeMounts:
            {{- include "agent-fleet.mounts" .uses | nindent 12 }}
      volumes:
        {{- include "agent-fleet.volumes" .uses | nindent 8 }}
{{- end -}}

{{/* Takes root, component, spec. */}}
{{- define "agent-fleet.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "agent-fleet.object" (list (include "agent-fleet.fullname" .root) .component) }}
  labels:
    {{- include "agent-fleet.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- with .service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .service.type }}
  selector:
    {{- include "agent-fleet.selector" (dict "root" .root "component" .component) | nindent 4 }}
  ports:
    - name: http
      port: {{ .service.port }}
      targetPort: http
{{- end -}}

{{/* Takes root, component, spec. */}}
{{- define "agent-fleet.ingress" -}}
{{- $ingress := .spec.ingress -}}
{{- $name := include "agent-fleet.object" (list (include "agent-fleet.fullname" .root) .component) -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $name }}
  labels:
    {{- include "agent-fleet.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- with $ingress.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with $ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  tls:
    - hosts: [{{ $ingress.host | quote }}]
      secretName: {{ $ingress.tlsSecret }}
  rules:
    - host: {{ $ingress.host | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ $name }}
                port: { name: http }
{{- end -}}
