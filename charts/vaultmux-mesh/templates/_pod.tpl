{{/* What both the Deployment's pods and sidecars have. */}}
{{- define "vaultmux-mesh.mounts" -}}
- {name: vaultmux-config, mountPath: /etc/vaultmux/config, readOnly: true}
{{- if .Values.policies }}
- {name: vaultmux-policies, mountPath: /etc/vaultmux/policies/chart, readOnly: true}
{{- end }}
{{- range .Values.existingPolicies }}
- {name: {{ printf "vaultmux-policies-%s" . | trunc 63 | trimSuffix "-" }}, mountPath: /etc/vaultmux/policies/{{ . }}, readOnly: true}
{{- end }}
{{- if include "vaultmux-mesh.grantSecret" . }}
- {name: vaultmux-grant, mountPath: /etc/vaultmux/grant, readOnly: true}
{{- end }}
{{- if include "vaultmux-mesh.usesTls" . }}
- {name: vaultmux-tls, mountPath: /etc/vaultmux/tls, readOnly: true}
{{- end }}
{{- if include "vaultmux-mesh.usesClientCa" . }}
- {name: vaultmux-client-ca, mountPath: /etc/vaultmux/client-ca, readOnly: true}
{{- end }}
{{- if or (include "vaultmux-mesh.usesApiServer" .) (eq .Values.mode "sidecar") }}
- {name: vaultmux-own-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- range .Values.tokens }}
- {name: vaultmux-token-{{ .name }}, mountPath: /var/run/secrets/vaultmux/{{ .name }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Secrets are for the group alone, where the pod's group is ours to choose. */}}
{{- define "vaultmux-mesh.fileMode" -}}
{{- if eq .Values.mode "cluster" }}, defaultMode: 288{{ end -}}
{{- end }}

{{- define "vaultmux-mesh.volumes" -}}
- name: vaultmux-config
  configMap: {name: {{ include "vaultmux-mesh.fullname" . }}}
{{- if .Values.policies }}
- name: vaultmux-policies
  configMap: {name: {{ include "vaultmux-mesh.fullname" . }}-policies}
{{- end }}
{{- range .Values.existingPolicies }}
- name: {{ printf "vaultmux-policies-%s" . | trunc 63 | trimSuffix "-" }}
  configMap: {name: {{ . }}}
{{- end }}
{{- with include "vaultmux-mesh.grantSecret" . }}
- name: vaultmux-grant
  secret: {secretName: {{ . }}{{ include "vaultmux-mesh.fileMode" $ }}}
{{- end }}
{{- if include "vaultmux-mesh.usesTls" . }}
- name: vaultmux-tls
  secret: {secretName: {{ include "vaultmux-mesh.tlsSecret" . }}{{ include "vaultmux-mesh.fileMode" $ }}}
{{- end }}
{{- if include "vaultmux-mesh.usesClientCa" . }}
- name: vaultmux-client-ca
  {{- if .Values.tls.clientCa.configMap }}
  configMap: {name: {{ .Values.tls.clientCa.configMap }}}
  {{- else }}
  secret: {secretName: {{ .Values.tls.clientCa.secret }}{{ include "vaultmux-mesh.fileMode" $ }}}
  {{- end }}
{{- end }}
{{- if include "vaultmux-mesh.usesApiServer" . }}
- name: vaultmux-own-token
  projected:
    {{- if eq .Values.mode "cluster" }}
    defaultMode: 288
    {{- end }}
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- else if eq .Values.mode "sidecar" }}
# It only tells who the pod is: nobody else takes it.
- name: vaultmux-own-token
  projected:
    sources:
      - serviceAccountToken: {path: token, audience: vaultmux.dev/identity, expirationSeconds: 3607}
{{- end }}
{{- range .Values.tokens }}
- name: vaultmux-token-{{ .name }}
  projected:
    sources:
      - serviceAccountToken: {path: token, audience: {{ .audience | quote }}, expirationSeconds: {{ .expirationSeconds | default 3600 | int }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
