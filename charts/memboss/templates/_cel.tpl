{{/* Parts of CEL that the webhook and the policies share. */}}

{{/* Whether the pod says anything of ours: an annotation, or units in a container. */}}
{{- define "memboss.cel.asks" -}}
(has(object.metadata.annotations) && object.metadata.annotations.exists(k, k.startsWith('memboss.dev/')))
|| object.spec.containers.exists(c, {{ include "memboss.cel.units" . }})
|| (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {{ include "memboss.cel.units" . }}))
{{- end -}}

{{/* Whether container c names units. */}}
{{- define "memboss.cel.units" -}}
has(c.resources) && ((has(c.resources.limits) && 'memboss.dev/vram' in c.resources.limits) || (has(c.resources.requests) && 'memboss.dev/vram' in c.resources.requests))
{{- end -}}
