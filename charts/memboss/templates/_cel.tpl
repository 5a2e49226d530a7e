{{/* Parts of CEL that the webhook and the policies share. */}}

{{/* Whether the pod says anything of ours: an annotation, or units in a container. */}}
{{- define "memboss.cel.asks" -}}
(has(object.metadata.annotations) && object.metadata.annotations.exists(k, k.startsWith('memboss.dev/')))
|| object.spec.containers.exists(c, {{ include "memboss.cel.units" . }})
|| (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {{ include "memboss.cel.units" . }}))
{{- end -}}

{{/* Whether container c names the way to the agent. */}}
{{- define "memboss.cel.door" -}}
has(c.resources) && has(c.resources.limits) && ('memboss.dev/agent' in c.resources.limits || 'memboss.dev/agent-gpus' in c.resources.limits)
{{- end -}}

{{/* Whether some container of the pod does. */}}
{{- define "memboss.cel.doors" -}}
object.spec.containers.exists(c, {{ include "memboss.cel.door" . }})
|| (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {{ include "memboss.cel.door" . }}))
{{- end -}}

{{/* Whether container c names units. */}}
{{- define "memboss.cel.units" -}}
has(c.resources) && ((has(c.resources.limits) && 'memboss.dev/vram' in c.resources.limits) || (has(c.resources.requests) && 'memboss.dev/vram' in c.resources.requests))
{{- end -}}

{{/* A refusal's words: (dict "key" CEL of the annotation's short name, "right" CEL of what would be right). */}}
{{- define "memboss.cel.wrong" -}}
'memboss.dev/' + {{ .key }} + ': "' + variables.annotations['memboss.dev/' + {{ .key }}] + '" is not possible: ' + {{ .right }}
{{- end -}}

{{/* The annotations of an object, empty if it has none. */}}
{{- define "memboss.cel.annotations" -}}
has({{ . }}.metadata.annotations) ? {{ . }}.metadata.annotations : {}
{{- end -}}

{{/* Whether a pod has our label or our gate. */}}
{{- define "memboss.cel.marked" -}}
(has({{ . }}.metadata.labels) && 'memboss.dev/leased' in {{ . }}.metadata.labels)
|| (has({{ . }}.spec.schedulingGates) && {{ . }}.spec.schedulingGates.exists(g, g.name == 'memboss.dev/lease'))
{{- end -}}

{{/* A policy's binding: (dict "root" $ "name" …). */}}
{{- define "memboss.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  {{- include "memboss.meta" (dict "root" .root "component" "policy") | nindent 2 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end -}}

{{/* Which namespaces' pods a policy or webhook is for. */}}
{{- define "memboss.namespaceSelector" -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        {{- include "memboss.excluded" . | nindent 8 }}
{{- end -}}


{{/* How a policy that ties agents to their node begins. */}}
{{- define "memboss.cel.agent" -}}
matchConditions:
  - name: by-an-agent
    expression: request.userInfo.username == '{{ include "memboss.agentUser" . }}'
variables:
  - name: node
    expression: >-
      has(request.userInfo.extra) && 'authentication.kubernetes.io/node-name' in request.userInfo.extra
      ? request.userInfo.extra['authentication.kubernetes.io/node-name'][0] : ''
validations:
  - expression: variables.node != ''
    message: "an agent's token must be bound to a pod on a node, and this one is not"
{{- end -}}
