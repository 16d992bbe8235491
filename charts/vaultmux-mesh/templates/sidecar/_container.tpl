{{/* The container of a sidecar. Loopback is out of the kubelet's reach, so probes run in it. */}}
{{- define "vaultmux-mesh.sidecar" -}}
name: {{ .Values.sidecar.containerName }}
image: {{ include "vaultmux-mesh.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/vaultmux/config/vaultmux.yaml{{ range .Values.extraArgs }}, {{ . | quote }}{{ end }}]
# A native sidecar: up before the workload's containers start, there until they have ended.
restartPolicy: Always
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
startupProbe:
  exec: {command: {{ include "vaultmux-mesh.probe" (list . "readyz") }}}
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  exec: {command: {{ include "vaultmux-mesh.probe" (list . "livez") }}}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
resources:
  {{- toYaml .Values.sidecar.resources | nindent 2 }}
securityContext:
  runAsUser: {{ .Values.podSecurityContext.runAsUser }}
  runAsGroup: {{ .Values.podSecurityContext.runAsGroup }}
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "vaultmux-mesh.mounts" . | nindent 2 }}
{{- end }}

{{- define "vaultmux-mesh.probe" -}}
{{- $top := index . 0 -}}
[/usr/local/bin/vaultmux-mesh, probe, "http://127.0.0.1:{{ $top.Values.listeners.admin.port }}/{{ index . 1 }}"]
{{- end }}

{{/* A value as an expression of CEL, whose lists and maps must be of one type. */}}
{{- define "vaultmux-mesh.cel" -}}
{{- if kindIs "map" . -}}
{{- $parts := list -}}
{{- range $key, $value := . }}{{ $parts = append $parts (printf "%s: dyn(%s)" (toJson $key) (include "vaultmux-mesh.cel" $value)) }}{{ end -}}
{{- printf "{%s}" (join ", " $parts) -}}
{{- else if kindIs "slice" . -}}
{{- $parts := list -}}
{{- range . }}{{ $parts = append $parts (printf "dyn(%s)" (include "vaultmux-mesh.cel" .)) }}{{ end -}}
{{- printf "[%s]" (join ", " $parts) -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end }}
