{{/* Name of everything in this release. */}}
{{- define "agent-fleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if or (contains $name .Release.Name) (contains .Release.Name $name) -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A list of words as the name of an object: DNS, at most 52 characters, other words never the same name. */}}
{{- define "agent-fleet.object" -}}
{{- $said := join "-" . -}}
{{- $clean := regexReplaceAll "[^a-z0-9-]" (lower $said) "-" -}}
{{- if or (ne $clean $said) (gt (len $clean) 52) -}}
{{- printf "%s-%s" ($clean | trunc 45 | trimSuffix "-") (sha256sum $said | trunc 6) -}}
{{- else -}}
{{- $clean -}}
{{- end -}}
{{- end -}}

{{/* What a pod is found by. Takes root and component. */}}
{{- define "agent-fleet.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Takes root and component. */}}
{{- define "agent-fleet.labels" -}}
{{ include "agent-fleet.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* The image. Takes root and, of another build, a tag or digest. */}}
{{- define "agent-fleet.image" -}}
{{- $image := .root.Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" $image.repository .digest -}}
{{- else if .tag -}}
{{- printf "%s:%s" $image.repository .tag -}}
{{- else if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "agent-fleet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "agent-fleet.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Name of the ConfigMap with a manifest. Builds that lie beside each other each keep the one they were started with. */}}
{{- define "agent-fleet.manifest" -}}
{{- $name := printf "%s-manifest" (include "agent-fleet.fullname" .root) -}}
{{- if eq .root.Values.versioning.mode "none" -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" $name (sha256sum .text | trunc 10) -}}
{{- end -}}
{{- end -}}

{{/* How a pool is scaled: none, keda or hpa. Takes root and spec. */}}
{{- define "agent-fleet.scaling" -}}
{{- default .root.Values.autoscaling.mode (dig "autoscaling" "mode" "" .spec) -}}
{{- end -}}

{{/* Tasks that wait for each process. Takes root and spec. */}}
{{- define "agent-fleet.targetBacklog" -}}
{{- default (default .spec.slots .root.Values.autoscaling.targetBacklog) (dig "autoscaling" "targetBacklog" nil .spec) | int -}}
{{- end -}}

{{/* Most processes of which each has something to do. Takes spec. */}}
{{- define "agent-fleet.allowed" -}}
{{- max 1 (ceil (divf .spec.usefulSlots .spec.slots)) | int -}}
{{- end -}}

{{/* What is said where the cap is not enforced. */}}
{{- define "agent-fleet.annotations" -}}
{{- if not .Values.quota.enforceCap }}
agent-fleet/idle-slots-allowed: {{ .Values.quota.reason | quote }}
{{- end }}
{{- end -}}
