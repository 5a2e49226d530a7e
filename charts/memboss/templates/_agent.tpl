{{/* The two containers of the DaemonSet and what they see of the node. */}}

{{- define "memboss.rootWithoutCapabilities" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "memboss.agentContainer" -}}
- name: agent
  image: {{ include "memboss.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [memboss-agent]
  args:
    - --admin-address=0.0.0.0:9401
    # Not at /sys/fs/cgroup: there a container has its own.
    - --cgroup-root={{ .Values.agent.cgroupRoot }}
    - --log-format={{ .Values.logFormat }}
    {{- with .Values.agent.pressure }}
    {{- if not .act }}
    - --no-relief
    {{- end }}
    {{- range .cleanIn }}
    - --clean-in={{ . }}
    {{- end }}
    - --eviction-mib={{ .evictionMib }}
    {{- range $level, $begins := dict "moderate" .moderate "high" .high "critical" .critical }}
    - --pressure-level={{ $level }}={{ $begins.availablePercent }}:{{ $begins.leftMib }}
    {{- end }}
    {{- end }}
    {{- if include "memboss.redisUrl" . }}
    - --operator-url=https://memboss-operator.{{ .Release.Namespace }}.svc:443
    - --operator-ca=/etc/memboss/operator/bundle.crt
    - --operator-token=/var/run/secrets/memboss/token
    {{- end }}
    {{- range .Values.agent.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    - name: POD_NAMESPACE
      valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    {{- with .Values.driver.nvmlLibrary }}
    - name: MEMBOSS_NVML_LIBRARY
      value: {{ . | quote }}
    {{- end }}
    {{- with .Values.agent.pressure.cleanIn }}
    - name: MEMBOSS_CLEAN_IN
      value: {{ join ":" . | quote }}
    {{- end }}
    {{- if .Values.agent.runtimeClassName }}
    # What such a runtime brings in: NVML, for all GPUs, and no CUDA.
    - name: NVIDIA_VISIBLE_DEVICES
      value: all
    - name: NVIDIA_DRIVER_CAPABILITIES
      value: utility
    {{- end }}
    {{- with .Values.agent.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: agent-admin, containerPort: 9401}
  livenessProbe:
    httpGet: {path: /livez, port: agent-admin}
    periodSeconds: 10
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /readyz, port: agent-admin}
    periodSeconds: 2
  resources:
    {{- toYaml .Values.agent.resources | nindent 4 }}
  securityContext:
    {{- include "memboss.rootWithoutCapabilities" . | nindent 4 }}
      # A process that leases in code and does not go when it has to is ended, whosever it is.
      {{- if .Values.agent.pressure.cleanIn }}
      # Which files are in use is to be seen of every process; files are to be opened, and what of them lies in the cache is to be seen (FOWNER),
      # whosever they are.
      add: [KILL, SYS_PTRACE, DAC_READ_SEARCH, FOWNER]
      {{- else }}
      add: [KILL]
      {{- end }}
  volumeMounts:
    {{- range $at, $path := .Values.agent.pressure.cleanIn }}
    - {name: clean-{{ $at }}, mountPath: {{ $path | quote }}, readOnly: true, mountPropagation: HostToContainer}
    {{- end }}
    - {name: run, mountPath: /run/memboss}
    - {name: state, mountPath: /var/lib/memboss}
    - {name: cgroup, mountPath: /host/sys/fs/cgroup, readOnly: true}
    - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
    {{- if include "memboss.redisUrl" . }}
    - {name: operator-token, mountPath: /var/run/secrets/memboss, readOnly: true}
    - {name: operator-ca, mountPath: /etc/memboss/operator, readOnly: true}
    {{- end }}
    {{- with .Values.driver.hostPath }}
    - {name: driver, mountPath: {{ . | quote }}, readOnly: {{ $.Values.driver.readOnly }}, mountPropagation: HostToContainer}
    {{- end }}
    {{- with .Values.agent.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "memboss.pluginContainer" -}}
- name: device-plugin
  image: {{ include "memboss.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [memboss-device-plugin]
  args:
    - --admin-address=0.0.0.0:9402
    - --log-format={{ .Values.logFormat }}
    - --multiple={{ .Values.devicePlugin.multiple }}
    - --plugin-directory={{ .Values.kubelet.rootDir }}/device-plugins
    - --pod-resources-socket={{ .Values.kubelet.rootDir }}/pod-resources/kubelet.sock
    - --cdi-directory=/run/cdi
    - --cdi-sources={{ join "," .Values.devicePlugin.cdiSources }}
    - --cdi-source-kind={{ .Values.devicePlugin.cdiSourceKind }}
    {{- range .Values.devicePlugin.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    {{- with .Values.devicePlugin.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: plugin-admin, containerPort: 9402}
  livenessProbe:
    httpGet: {path: /livez, port: plugin-admin}
    periodSeconds: 10
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /readyz, port: plugin-admin}
    periodSeconds: 2
  resources:
    {{- toYaml .Values.devicePlugin.resources | nindent 4 }}
  securityContext:
    {{- include "memboss.rootWithoutCapabilities" . | nindent 4 }}
  volumeMounts:
    - {name: run, mountPath: /run/memboss}
    - {name: state, mountPath: /var/lib/memboss}
    - {name: device-plugins, mountPath: {{ .Values.kubelet.rootDir }}/device-plugins}
    - {name: pod-resources, mountPath: {{ .Values.kubelet.rootDir }}/pod-resources}
    - {name: run-cdi, mountPath: /run/cdi}
    - {name: etc-cdi, mountPath: /etc/cdi, readOnly: true}
    {{- with .Values.agent.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "memboss.agentVolumes" -}}
{{- range $at, $path := .Values.agent.pressure.cleanIn }}
- name: clean-{{ $at }}
  hostPath: {path: {{ $path | quote }}}
{{- end }}
- name: run
  hostPath: {path: /run/memboss, type: DirectoryOrCreate}
- name: state
  hostPath: {path: /var/lib/memboss, type: DirectoryOrCreate}
- name: cgroup
  hostPath: {path: /sys/fs/cgroup, type: Directory}
- name: device-plugins
  hostPath: {path: {{ .Values.kubelet.rootDir }}/device-plugins, type: Directory}
- name: pod-resources
  hostPath: {path: {{ .Values.kubelet.rootDir }}/pod-resources, type: Directory}
- name: run-cdi
  hostPath: {path: /run/cdi, type: DirectoryOrCreate}
- name: etc-cdi
  hostPath: {path: /etc/cdi, type: DirectoryOrCreate}
{{- with .Values.driver.hostPath }}
- name: driver
  hostPath: {path: {{ . | quote }}}
{{- end }}
- name: api-token
  projected:
    defaultMode: 0400
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- if include "memboss.redisUrl" . }}
# Shown to the operator, and good for nothing else.
- name: operator-token
  projected:
    defaultMode: 0400
    sources:
      - serviceAccountToken: {path: token, audience: memboss, expirationSeconds: 3600}
# The operator makes it at its first start; its key stays out of here.
- name: operator-ca
  secret:
    secretName: memboss-webhook-cert
    optional: true
    items: [{key: bundle.crt, path: bundle.crt}]
{{- end }}
{{- with .Values.agent.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
