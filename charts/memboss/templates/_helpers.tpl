{{/* Names, labels and checks that more than one object needs. Names are fixed: binaries and policies know them. */}}

{{- define "memboss.refuse" -}}
{{- if eq .Release.Namespace "default" -}}
{{- fail "memboss does not install into the namespace 'default', whose pods it would have to leave alone: helm install memboss … --namespace memboss-system --create-namespace" -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.url) -}}
{{- fail "redis.mode is external and redis.url is empty: set it to redis://host:port" -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object: (dict "root" $ "component" "operator"). */}}
{{- define "memboss.labels" -}}
{{ include "memboss.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "memboss.selector" -}}
app.kubernetes.io/name: memboss
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* An object's metadata but its name: (dict "root" $ "component" … "annotations" …). */}}
{{- define "memboss.meta" -}}
labels:
  {{- include "memboss.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "memboss.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a container of ours that needs nothing of the host runs under. */}}
{{- define "memboss.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "memboss.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Server, without user and password; empty if there is none. */}}
{{- define "memboss.redisUrl" -}}
{{- if eq .Values.redis.mode "bundled" -}}
redis://memboss-redis.{{ .Release.Namespace }}.svc:6379
{{- else if eq .Values.redis.mode "external" -}}
{{ .Values.redis.url }}
{{- end -}}
{{- end -}}

{{- define "memboss.redisSecret" -}}
{{- if eq .Values.redis.mode "bundled" -}}memboss-redis{{- else -}}{{ .Values.redis.existingSecret }}{{- end -}}
{{- end -}}

{{/* User names, as the API server writes them. */}}
{{- define "memboss.operatorUser" -}}system:serviceaccount:{{ .Release.Namespace }}:memboss-operator{{- end -}}
{{- define "memboss.agentUser" -}}system:serviceaccount:{{ .Release.Namespace }}:memboss-agent{{- end -}}

{{/* Namespaces whose pods are none of ours, as a YAML list. */}}
{{- define "memboss.excluded" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toYaml -}}
{{- end -}}
