{{- define "printworks.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "printworks.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "printworks.selector" . }}
{{- end }}

{{- define "printworks.selector" -}}
app.kubernetes.io/name: printworks
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "printworks.image" -}}
{{- $image := index . 0 -}}{{- $root := index . 1 -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}{{- end -}}
{{- end }}

{{- define "printworks.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "printworks.name" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "printworks.redisSecret" -}}
{{- if .Values.redis.existingSecret -}}{{ .Values.redis.existingSecret }}
{{- else if .Values.valkey.enabled -}}{{ include "printworks.name" . }}-valkey
{{- else -}}{{ fail "set redis.existingSecret (a Secret whose key `url` is a Redis URL), or valkey.enabled for a trial" }}{{- end -}}
{{- end }}

{{- define "printworks.s3Secret" -}}
{{- if .Values.s3.existingSecret -}}{{ .Values.s3.existingSecret }}
{{- else if .Values.seaweedfs.enabled -}}{{ include "printworks.name" . }}-seaweedfs{{- end -}}
{{- end }}

{{- define "printworks.firstKeySecret" -}}
{{- .Values.firstKey.existingSecret | default (printf "%s-first-key" (include "printworks.name" .)) -}}
{{- end }}

{{- /* The variables of every role. */ -}}
{{- define "printworks.env" -}}
- name: PRINTWORKS_REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ include "printworks.redisSecret" . }}, key: url } }
- { name: PRINTWORKS_DURABILITY, value: {{ .Values.redis.durability | quote }} }
- { name: PRINTWORKS_MODELS_FILE, value: /etc/printworks/models.toml }
{{- range $name, $value := .Values.settings }}
- { name: {{ $name }}, value: {{ $value | toString | quote }} }
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The variables of the roles that read or write images. */ -}}
{{- define "printworks.s3Env" -}}
{{- $endpoint := .Values.s3.endpoint -}}
{{- if and .Values.seaweedfs.enabled (not $endpoint) -}}
{{- $endpoint = printf "http://%s-seaweedfs:8333" (include "printworks.name" .) -}}
{{- end -}}
- { name: PRINTWORKS_S3_BUCKET, value: {{ .Values.s3.bucket | quote }} }
- { name: PRINTWORKS_S3_REGION, value: {{ .Values.s3.region | quote }} }
- { name: PRINTWORKS_S3_ADDRESSING, value: {{ .Values.s3.addressing | quote }} }
{{- with $endpoint }}
- { name: PRINTWORKS_S3_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- with .Values.s3.publicEndpoint }}
- { name: PRINTWORKS_S3_PUBLIC_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- with include "printworks.s3Secret" . }}
- name: PRINTWORKS_S3_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: access-key } }
- name: PRINTWORKS_S3_SECRET_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: secret-key } }
{{- end }}
{{- end }}

{{- define "printworks.webhookEnv" -}}
{{- with .Values.webhooks.existingSecret }}
- name: PRINTWORKS_WEBHOOK_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: key } }
{{- end }}
{{- end }}

{{- /* What every pod of ours has. Kubernetes would else add a variable PRINTWORKS_API_PORT for the
Service of that name, which the roles refuse as a misspelt setting: no service links. */ -}}
{{- define "printworks.pod" -}}
serviceAccountName: {{ include "printworks.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- /* last: the servers of a trial add their user below it */}}
{{- end }}

{{- define "printworks.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- /* models.toml of a list of ids, in the order of `models`; the empty list is all. */ -}}
{{- define "printworks.modelFile" -}}
{{- $ids := index . 0 -}}{{- $root := index . 1 -}}
{{- $known := list -}}
{{- range $root.Values.models }}{{ $known = append $known .id }}{{ end -}}
{{- range $ids }}{{ if not (has . $known) }}{{ fail (printf "a worker group names the model %q, which `models` has not" .) }}{{ end }}{{ end -}}
{{- range $root.Values.models }}
{{- if or (not $ids) (has .id $ids) }}
[[model]]
id = {{ .id | quote }}
{{ .entry }}
{{- end }}
{{- end }}
{{- end }}
