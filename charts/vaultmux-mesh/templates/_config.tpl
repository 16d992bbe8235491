{{/* The service's configuration file: what the values say, and what the chart decides. */}}
{{- define "vaultmux-mesh.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not (or $config.backends $config.plugins) -}}
  {{- fail "config.backends needs at least one store; the chart's README has examples" -}}
{{- end -}}
{{- $_ := set $config "mode" .Values.mode -}}
{{- $_ := set $config "listeners" (include "vaultmux-mesh.listeners" . | fromYaml) -}}
{{- $_ := set $config "shutdown" (dict "grace" (printf "%vs" .Values.shutdown.grace)) -}}
{{- $policies := list -}}
{{- if .Values.policies }}{{- $policies = append $policies "/etc/vaultmux/policies/chart" -}}{{- end -}}
{{- range .Values.existingPolicies }}{{- $policies = append $policies (printf "/etc/vaultmux/policies/%s" .) -}}{{- end -}}
{{- if $policies }}{{- $_ := set $config "policies" $policies -}}{{- end -}}
{{- $identity := default dict $config.identity -}}
{{- if include "vaultmux-mesh.grantSecret" . -}}
  {{- $grant := default dict $identity.grant -}}
  {{- $_ := set $grant "key_file" "/etc/vaultmux/grant/keys" -}}
  {{- $_ := set $identity "grant" $grant -}}
{{- end -}}
{{- with $identity.service_account_tokens -}}
  {{- if and (not $.Values.rbac.revocation) (not (hasKey . "watch")) -}}
    {{- $_ := set . "watch" false -}}
  {{- end -}}
{{- end -}}
{{- $_ := set $config "identity" $identity -}}
{{- toYaml $config -}}
{{- end }}

{{- define "vaultmux-mesh.listeners" -}}
{{- $values := .Values.listeners -}}
{{- $cluster := eq .Values.mode "cluster" -}}
{{- $bind := ternary $values.bind "127.0.0.1" $cluster -}}
grpc:
  address: {{ printf "%s:%v" (ternary $bind "127.0.0.1" (eq (include "vaultmux-mesh.grpcOpen" .) "true")) $values.grpc.port | quote }}
  {{- if $values.grpc.tls }}
  tls:
    {{- include "vaultmux-mesh.tlsFiles" . | nindent 4 }}
  {{- end }}
  {{- with $values.grpc.trustedPeers }}
  trusted_peers: {{ toJson . }}
  {{- end }}
rest:
  address: {{ printf "%s:%v" (ternary $bind "127.0.0.1" $values.rest.enabled) $values.rest.port | quote }}
  {{- if $values.rest.tls }}
  tls:
    {{- include "vaultmux-mesh.tlsFiles" . | nindent 4 }}
    {{- if include "vaultmux-mesh.usesClientCa" . }}
    client_certificate: {{ $values.rest.clientCertificate }}
    {{- end }}
  {{- end }}
  {{- if not $cluster }}
  require_request_header: {{ $values.rest.requireRequestHeader }}
  {{- end }}
admin:
  address: {{ printf "%s:%v" $bind $values.admin.port | quote }}
{{- end }}

{{- define "vaultmux-mesh.tlsFiles" -}}
{{- if not (include "vaultmux-mesh.tlsSecret" .) }}{{ fail "TLS on a listener needs tls.secretName or tls.certManager.enabled" }}{{ end -}}
cert_file: /etc/vaultmux/tls/tls.crt
key_file: /etc/vaultmux/tls/tls.key
{{- if include "vaultmux-mesh.usesClientCa" . }}
client_ca_file: /etc/vaultmux/client-ca/{{ .Values.tls.clientCa.key }}
{{- end }}
{{- end }}

{{/* The policies of the values, as files. */}}
{{- define "vaultmux-mesh.policyFiles" -}}
{{- range $name, $content := .Values.policies }}
{{- if kindIs "string" $content }}
{{ $name }}: |
  {{- $content | trim | nindent 2 }}
{{- else }}
{{ $name }}: |
  {{- range $at, $policy := $content }}
  {{- if $at }}
  ---
  {{- end }}
  {{- toYaml $policy | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
