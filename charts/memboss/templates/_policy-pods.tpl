{{/* The checks of new pods, in the order in which they are told. The words are those of operator/src/annotations.rs. */}}

{{- define "memboss.policy.variables" -}}
- name: annotations
  expression: {{ include "memboss.cel.annotations" "object" | quote }}
# Our annotations, without the prefix.
- name: ours
  expression: variables.annotations.filter(k, k.startsWith('memboss.dev/')).map(k, k.substring(12))
- name: inits
  expression: "has(object.spec.initContainers) ? object.spec.initContainers : []"
# Who may hold a lease: ordinary containers and sidecars.
- name: eligible
  expression: object.spec.containers.map(c, c.name) + variables.inits.filter(c, has(c.restartPolicy) && c.restartPolicy == 'Always').map(c, c.name)
- name: carriers
  expression: object.spec.containers + variables.inits.filter(c, has(c.restartPolicy) && c.restartPolicy == 'Always')
- name: plainInits
  expression: variables.inits.filter(c, !(has(c.restartPolicy) && c.restartPolicy == 'Always'))
- name: names
  expression: variables.eligible.join(', ')
- name: known
  expression: "['vram', 'ram', 'container', 'containers', 'priority', 'gpu-model', 'gpu-uuid', 'layout', 'notice', 'protection', 'can-shrink', 'can-offload', 'agent']"
- name: words
  expression: >-
    {'priority': ['urgent', 'high', 'normal', 'low', 'batch'], 'containers': ['share', 'separate'], 'layout': ['pack', 'spread'],
    'can-shrink': ['true', 'false'], 'can-offload': ['true', 'false'], 'agent': ['true', 'gpus']}
- name: most
  expression: "{'notice': 300, 'protection': 86400}"
- name: byName
  expression: variables.ours.filter(k, k.startsWith('vram.')).map(k, k.substring(5))
# The container that memboss.dev/vram is for.
- name: target
  expression: "'container' in variables.ours ? variables.annotations['memboss.dev/container'] : object.spec.containers[0].name"
# The container whose memory request carries the RAM.
- name: carrier
  expression: variables.carriers.filter(c, c.name == variables.target)
- name: badRam
  expression: >-
    'ram' in variables.ours && !variables.annotations['memboss.dev/ram'].matches(
    '^([1-9][0-9]{0,15}|[1-9][0-9]{0,12}(Ki|k)|[1-9][0-9]{0,9}(Mi|M)|[1-9][0-9]{0,6}(Gi|G)|[1-9][0-9]{0,3}(Ti|T))$')
- name: aboutGpus
  expression: variables.ours.filter(k, k in ['gpu-model', 'gpu-uuid', 'layout', 'containers', 'can-shrink', 'can-offload'])
- name: asking
  expression: "variables.byName + ('vram' in variables.ours ? [variables.target] : [])"
- name: withUnits
  expression: >-
    (object.spec.containers + variables.inits).filter(c, {{ include "memboss.cel.units" . }}).map(c, c.name)
- name: ramAlone
  expression: "'ram' in variables.ours && variables.asking.size() + variables.withUnits.size() == 0"
# Whether it asks for a lease of its own.
- name: leases
  expression: "variables.asking.size() + variables.withUnits.size() > 0 || 'ram' in variables.ours"
- name: inCode
  expression: "'agent' in variables.ours"
- name: hasDoor
  expression: (object.spec.containers + variables.inits).exists(c, {{ include "memboss.cel.door" . }})
- name: door
  expression: "variables.inCode && variables.annotations['memboss.dev/agent'] == 'gpus' ? 'memboss.dev/agent-gpus' : 'memboss.dev/agent'"
# Who is to have it: units of GPU memory bring the socket along.
- name: withoutDoor
  expression: >-
    variables.carriers.filter(c, ('container' in variables.ours ? c.name == variables.target : object.spec.containers.exists(o, o.name == c.name))
    && !(c.name in variables.asking) && !(c.name in variables.withUnits)
    && !(has(c.resources) && has(c.resources.limits) && variables.door in c.resources.limits)).map(c, c.name)
- name: aboutLeases
  expression: variables.ours.filter(k, !(k in ['container', 'priority', 'agent']))
- name: class
  expression: "'priority' in variables.ours ? variables.annotations['memboss.dev/priority'] : 'normal'"
- name: classes
  expression: "['batch', 'low', 'normal', 'high', 'urgent']"
# The highest class of the namespace; only an administrator makes one urgent.
- name: allowed
  expression: >-
    has(namespaceObject.metadata.annotations) && 'memboss.dev/max-class' in namespaceObject.metadata.annotations
    && namespaceObject.metadata.annotations['memboss.dev/max-class'] in variables.classes
    ? namespaceObject.metadata.annotations['memboss.dev/max-class'] : 'high'
# What is wrong, each a list of short names.
- name: unknown
  expression: variables.ours.filter(k, !(k in variables.known) && !k.startsWith('vram.'))
- name: badAmounts
  expression: >-
    variables.ours.filter(k, (k == 'vram' || k.startsWith('vram.')) && !variables.annotations['memboss.dev/' + k].matches(
    '^(([1-9]|1[0-6])x)?([1-9][0-9]{0,15}|[1-9][0-9]{0,12}(Ki|k)|[1-9][0-9]{0,9}(Mi|M)|[1-9][0-9]{0,6}(Gi|G)|[1-9][0-9]{0,3}(Ti|T)|([1-9][0-9]?|100)%)$'))
- name: badWords
  expression: variables.ours.filter(k, k in variables.words && !(variables.annotations['memboss.dev/' + k] in variables.words[k]))
- name: badSeconds
  expression: >-
    variables.ours.filter(k, k in variables.most && (!variables.annotations['memboss.dev/' + k].matches('^[0-9]{1,9}s?$')
    || int(variables.annotations['memboss.dev/' + k].replace('s', '')) > variables.most[k]))
- name: strangers
  expression: variables.byName.filter(n, !(n in variables.eligible))
- name: withoutUnits
  expression: variables.asking.filter(n, !(n in variables.withUnits))
{{- end -}}

{{- define "memboss.policy.syntax" -}}
- expression: variables.unknown.size() == 0
  message: "an annotation that begins with memboss.dev/ is none that a pod may ask by"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.unknown[0]" "right" "(variables.unknown[0] == 'model' ? 'this version loads no models: leave it out' : 'there is no such annotation; what a pod may ask by is ' + variables.known.join(', ') + ', vram.<container>')") }}
- expression: variables.badAmounts.size() == 0
  message: "memboss.dev/vram or memboss.dev/vram.<container>: write whole Mi or Gi (8Gi, 8000Mi), a share (50%), or either for several GPUs (2x8Gi)"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.badAmounts[0]" "right" "'write whole Mi or Gi (8Gi, 8000Mi), a share (50%, from 1% to 100%), or either for several GPUs (2x8Gi, up to 16)'") }}
- expression: "!variables.badRam"
  message: "memboss.dev/ram: write whole Mi or Gi: 16Gi, 8000Mi"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'ram'" "right" "'write whole Mi or Gi: 16Gi, 8000Mi'") }}
- expression: variables.badWords.size() == 0
  message: "memboss.dev/priority, containers, layout, can-shrink, can-offload or agent has a value that it cannot have"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.badWords[0]" "right" "'one of ' + variables.words[variables.badWords[0]].join(', ')") }}
- expression: variables.badSeconds.size() == 0
  message: "memboss.dev/notice or protection: write whole seconds, at most 300 and 86400"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.badSeconds[0]" "right" "'whole seconds, at most ' + string(variables.most[variables.badSeconds[0]])") }}
- expression: "!('gpu-model' in variables.ours) || variables.annotations['memboss.dev/gpu-model'].split('|').all(p, p.trim() != '')"
  message: "memboss.dev/gpu-model has an empty part: write parts of model names, separated by |: H100|A100"
- expression: "!('gpu-uuid' in variables.ours) || variables.annotations['memboss.dev/gpu-uuid'].split(',').all(p, p.trim() != '')"
  message: "memboss.dev/gpu-uuid has an empty part: write GPU UUIDs, separated by commas"
{{- end -}}

{{- define "memboss.policy.containers" -}}
- expression: variables.plainInits.all(c, !({{ include "memboss.cel.units" . }}) && !(('vram.' + c.name) in variables.ours))
  message: an init container cannot hold a lease
  messageExpression: >-
    'memboss.dev/vram.' + variables.plainInits.filter(c, ({{ include "memboss.cel.units" . }}) || (('vram.' + c.name) in variables.ours))[0].name + ': an init container cannot hold a lease of GPU memory, only ' + variables.names + ' can (sidecars may): ask in an ordinary container'
- expression: variables.strangers.size() == 0
  message: an annotation of memboss names a container that the pod does not have
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'vram.' + variables.strangers[0]" "right" "'the pod has no container \"' + variables.strangers[0] + '\"; it has ' + variables.names") }}
- expression: "!('container' in variables.ours) || variables.annotations['memboss.dev/container'] in variables.eligible"
  message: memboss.dev/container names a container that the pod does not have
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'container'" "right" "'the pod has no such container; it has ' + variables.names") }}
- expression: "!('vram' in variables.ours) || 'container' in variables.ours || object.spec.containers.size() == 1"
  message: memboss.dev/vram does not say for which container it is
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'vram'" "right" "'the pod has several containers (' + variables.names + '): say which by memboss.dev/container, or ask by memboss.dev/vram.<container>'") }}
- expression: "!('vram' in variables.ours) || !(variables.target in variables.byName)"
  message: memboss.dev/vram and memboss.dev/vram.<container> ask for the same container
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'vram.' + variables.target" "right" "'memboss.dev/vram asks for the same container: keep one of the two'") }}
- expression: variables.inCode || !variables.hasDoor
  message: "memboss.dev/agent and memboss.dev/agent-gpus are put into a container's resources by memboss: annotate the pod memboss.dev/agent=true, or gpus"
- expression: variables.leases || variables.inCode
  message: "the pod has annotations, a label or a gate of memboss, and asks for no memory: add memboss.dev/vram or memboss.dev/ram, such as 8Gi, or memboss.dev/agent"
- expression: "!variables.leases || !variables.inCode || variables.annotations['memboss.dev/agent'] != 'gpus'"
  message: "memboss.dev/agent: the pod has a lease of its own, and what it leases in code comes out of that: write true"
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "'agent'" "right" "'the pod has a lease of its own, and what it leases in code comes out of that: write true'") }}
- expression: "variables.leases || !variables.inCode || variables.aboutLeases.size() == 0"
  message: an annotation about a lease on a pod that leases in code alone
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.aboutLeases[0]" "right" "'it is about a lease of its own, and the pod leases in code alone: leave it out, or add memboss.dev/vram or memboss.dev/ram'") }}
- expression: "!variables.ramAlone || variables.aboutGpus.size() == 0"
  message: an annotation about GPUs on a pod that asks for RAM alone
  messageExpression: >-
    {{ include "memboss.cel.wrong" (dict "key" "variables.aboutGpus[0]" "right" "'it is about GPUs, and the pod asks for RAM alone: leave it out, or add memboss.dev/vram'") }}
- expression: "!variables.leases || !has(object.spec.nodeName) || object.spec.nodeName == ''"
  message: "spec.nodeName: a pod with a lease is placed by memboss: leave nodeName out, and use a node selector or affinity"
- expression: variables.classes.indexOf(variables.class) <= variables.classes.indexOf(variables.allowed)
  message: the namespace may not ask for that class
  messageExpression: >-
    'memboss.dev/priority: "' + variables.class + '" is not possible: this namespace may ask for ' + variables.allowed
    + ' at the most; an administrator can allow more by annotating it memboss.dev/max-class=' + variables.class
{{- end -}}

{{- define "memboss.policy.admitted" -}}
- expression: "!variables.leases || has(object.spec.schedulingGates) && object.spec.schedulingGates.exists(g, g.name == 'memboss.dev/lease')"
  reason: Forbidden
  message: >-
    the request is right, but memboss did not answer, so that the pod has no scheduling gate memboss.dev/lease: try again; an administrator can look at
    the Deployment memboss-operator in the namespace {{ .Release.Namespace }}
- expression: "variables.leases || !has(object.spec.schedulingGates) || !object.spec.schedulingGates.exists(g, g.name == 'memboss.dev/lease')"
  message: "the pod leases in code alone, and nobody would open the scheduling gate memboss.dev/lease: leave it out"
- expression: >-
    has(object.metadata.labels) && 'memboss.dev/leased' in object.metadata.labels
    && object.metadata.labels['memboss.dev/leased'] == (variables.leases ? 'true' : 'in-code')
  reason: Forbidden
  message: >-
    the request is right, but memboss did not answer, so that the pod has no label memboss.dev/leased (true where it asks for memory, in-code where it leases in
    code alone): try again; an administrator can look at the Deployment memboss-operator in the namespace {{ .Release.Namespace }}
- expression: >-
    !('ram' in variables.ours) || variables.carrier.exists(c, has(c.resources) && has(c.resources.requests) && 'memory' in c.resources.requests
    && quantity(c.resources.requests['memory']).compareTo(quantity(variables.annotations['memboss.dev/ram'])) >= 0)
  message: "the pod leases RAM and its container's memory request is smaller, which memboss raises: try again"
- expression: variables.withoutUnits.size() == 0
  message: a container that asks for GPU memory has no units of memboss.dev/vram
  messageExpression: >-
    'container ' + variables.withoutUnits[0] + ' asks for GPU memory and has no memboss.dev/vram in its resources, which memboss puts there: try again'
- expression: "!variables.inCode || variables.withoutDoor.size() == 0"
  message: a container that leases in code has no way to the agent
  messageExpression: >-
    'container ' + variables.withoutDoor[0] + ' leases in code and has no ' + variables.door + ' in its resources, which memboss puts there: try again'
{{- end -}}
