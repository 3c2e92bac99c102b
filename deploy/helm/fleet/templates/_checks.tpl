{{/* What no schema can say. Fails with one line for the first problem. */}}
{{- define "agent-fleet.checks" -}}
{{- $values := .Values -}}
{{- $full := include "agent-fleet.fullname" . -}}
{{- if not $values.manifest -}}
{{- fail "manifest is empty: write values with `fleet deploy render helm` and pass them with -f" -}}
{{- end -}}
{{- if not $values.temporal.address -}}
{{- fail "temporal.address is empty: say host:port of the server, as in temporal-frontend.temporal:7233" -}}
{{- end -}}
{{- if not $values.redis.url.name -}}
{{- fail "redis.url is empty: name the Secret and the key that hold FLEET_REDIS_URL, as in {name: fleet-redis, key: url}" -}}
{{- end -}}
{{- if not $values.database.url.name -}}
{{- fail "database.url is empty: name the Secret and the key that hold FLEET_DATABASE_URL, as in {name: fleet-database, key: url}" -}}
{{- end -}}
{{- if and $values.temporal.apiKey.name $values.temporal.mtls.secret -}}
{{- fail "temporal.apiKey and temporal.mtls.secret: one of the two, not both" -}}
{{- end -}}
{{- if and $values.temporal.apiKey.name (not $values.temporal.tls.enabled) -}}
{{- fail "temporal.apiKey: a key would be sent in the clear: set temporal.tls.enabled=true" -}}
{{- end -}}
{{- if and (not $values.quota.enforceCap) (not $values.quota.reason) -}}
{{- fail "quota.enforceCap is false and quota.reason empty: say why processes may stand idle" -}}
{{- end -}}
{{- if $values.networkPolicy.enabled -}}
{{- include "agent-fleet.open" (dict "values" $values "way" "temporal" "said" "temporal.address" "url" (printf "grpc://%s" $values.temporal.address)) -}}
{{- include "agent-fleet.open" (dict "values" $values "way" "otlp" "said" "telemetry.otlpEndpoint" "url" $values.telemetry.otlpEndpoint) -}}
{{- if $values.codecServer.enabled -}}
{{- include "agent-fleet.open" (dict "values" $values "way" "providers" "said" "codecServer.jwksUrl" "url" $values.codecServer.jwksUrl) -}}
{{- end -}}
{{- end -}}
{{- range $name, $spec := $values.pools -}}
{{- if eq (include "agent-fleet.scaling" (dict "root" $ "spec" $spec)) "keda" -}}
{{- include "agent-fleet.kedaReaches" (dict "values" $values "pool" $name) -}}
{{- end -}}
{{- if lt (int $spec.maxReplicas) (int $spec.replicas) -}}
{{- fail (printf "pools.%s.maxReplicas: must be at least replicas, %d, got %d" $name (int $spec.replicas) (int $spec.maxReplicas)) -}}
{{- end -}}
{{- if and $values.quota.enforceCap (not (kindIs "invalid" $spec.usefulSlots)) -}}
{{- $allowed := include "agent-fleet.allowed" (dict "spec" $spec) | int -}}
{{- $most := int $spec.maxReplicas -}}
{{- if gt $most $allowed -}}
{{- fail (printf "pools.%s.maxReplicas: %d x %d slots = %d, but the quota keeps %d busy:\n  %s\nA process too many only waits in the line. Set pools.%s.maxReplicas to at most %d, or raise the quota and render again; quota.enforceCap=false with a quota.reason installs it all the same." $name $most (int $spec.slots) (mul $most (int $spec.slots)) (int $spec.usefulSlots) (join "\n  " $spec.arithmetic) $name $allowed) -}}
{{- end -}}
{{- end -}}
{{- if eq $values.versioning.mode "controller" -}}
{{- $queue := printf "%s/%s" $.Release.Namespace (include "agent-fleet.object" (list $full $name)) -}}
{{- if ne $spec.taskQueue $queue -}}
{{- fail (printf "pools.%s.taskQueue: the worker controller names the Worker Deployment %q, and workers name it by their task queue, which is %q: set task_queue = %q in [pools.%s] of the manifest and render again" $name $queue $spec.taskQueue $queue $name) -}}
{{- end -}}
{{- if eq (include "agent-fleet.scaling" (dict "root" $ "spec" $spec)) "hpa" -}}
{{- fail (printf "pools.%s: autoscaling hpa does not go with versioning.mode=controller, because fleet_queue_backlog is not told by build: use keda" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.versioning.mode "fleet") (not $values.versioning.buildId) -}}
{{- fail "versioning.buildId is empty: say the version of the workers' code, as in v2, or set versioning.mode=none" -}}
{{- end -}}
{{- if and $values.versioning.keep (ne $values.versioning.mode "fleet") -}}
{{- fail (printf "versioning.keep: builds are kept in mode fleet only, not in mode %s" $values.versioning.mode) -}}
{{- end -}}
{{- range $build := $values.versioning.keep -}}
{{- if eq $build.buildId $values.versioning.buildId -}}
{{- fail (printf "versioning.keep: %s is the build that is being deployed" $build.buildId) -}}
{{- end -}}
{{- range $pool, $replicas := $build.pools -}}
{{- if not (hasKey $values.pools $pool) -}}
{{- fail (printf "versioning.keep: there is no pool %s" $pool) -}}
{{- end -}}
{{- $spec := get $values.pools $pool -}}
{{- if and $values.quota.enforceCap (not (kindIs "invalid" $spec.usefulSlots)) -}}
{{- $allowed := include "agent-fleet.allowed" (dict "spec" $spec) | int -}}
{{- if gt (int $replicas) $allowed -}}
{{- fail (printf "versioning.keep: build %s, pool %s: %d x %d slots = %d, but the quota keeps %d busy, whatever the build. Set it to at most %d; quota.enforceCap=false with a quota.reason installs it all the same." $build.buildId $pool (int $replicas) (int $spec.slots) (mul $replicas $spec.slots) (int $spec.usefulSlots) $allowed) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.versioning.rollout.strategy "Progressive") (not $values.versioning.rollout.steps) -}}
{{- fail "versioning.rollout.steps is empty: strategy Progressive needs steps, as in {rampPercentage: 10, pauseDuration: 5m}" -}}
{{- end -}}
{{- range $name := list "console" "codecServer" -}}
{{- $one := get $values $name -}}
{{- if and $one.enabled $one.ingress.enabled (not (and $one.ingress.host $one.ingress.tlsSecret)) -}}
{{- fail (printf "%s.ingress: needs host and tlsSecret: what is shown there is for nobody else" $name) -}}
{{- end -}}
{{- end -}}
{{- if and $values.codecServer.enabled (not $values.codecServer.tokens.name) (not $values.codecServer.issuer) -}}
{{- fail "codecServer: needs tokens or issuer, audience and jwksUrl: it shows decrypted payloads to nobody else" -}}
{{- end -}}
{{- end -}}

{{/* Fails where the policies would close the way to an address. Takes values, way (key of networkPolicy), said and url. */}}
{{- define "agent-fleet.open" -}}
{{- if .url -}}
{{- $parts := urlParse .url -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" | default (ternary "443" "80" (eq $parts.scheme "https")) -}}
{{- $ports := list -}}
{{- range (get .values.networkPolicy .way).ports -}}
{{- $ports = append $ports (int . | toString) -}}
{{- end -}}
{{- if not (has $port $ports) -}}
{{- fail (printf "networkPolicy.%s.ports: %s, but %s is on port %s, which no pod would reach: set them to [%s]" .way (join ", " $ports) .said $port (join ", " (append $ports $port))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Fails where KEDA could not ask Temporal, and so would never scale. Takes values and pool. */}}
{{- define "agent-fleet.kedaReaches" -}}
{{- $temporal := .values.temporal -}}
{{- $else := ternary "none" "hpa or none" (eq .values.versioning.mode "controller") -}}
{{- if and (or $temporal.tls.enabled $temporal.tls.serverName $temporal.tls.ca.name) (not $temporal.apiKey.name) (not $temporal.mtls.secret) -}}
{{- fail (printf "pools.%s: KEDA asks Temporal over TLS only with an API key or a client certificate, and would never scale: set temporal.apiKey or temporal.mtls.secret, or autoscaling.mode to %s" .pool $else) -}}
{{- end -}}
{{- if and $temporal.apiKey.name $temporal.tls.ca.name -}}
{{- fail (printf "pools.%s: with an API key KEDA does not read temporal.tls.ca, trusts public authorities only, and would never scale: use temporal.mtls.secret, or set autoscaling.mode to %s" .pool $else) -}}
{{- end -}}
{{- end -}}
