{{/* Names and labels. */}}
{{- define "vaultmux-mesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "vaultmux-mesh.fullname" -}}
{{- $name := include "vaultmux-mesh.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Of objects outside namespaces, which several releases must not share. */}}
{{- define "vaultmux-mesh.clusterName" -}}
{{- printf "%s.%s" (include "vaultmux-mesh.fullname" .) .Release.Namespace -}}
{{- end }}

{{- define "vaultmux-mesh.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vaultmux-mesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end }}

{{- define "vaultmux-mesh.labels" -}}
app.kubernetes.io/name: {{ include "vaultmux-mesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "vaultmux-mesh.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vaultmux-mesh.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed with serviceAccount.create: false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "vaultmux-mesh.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The pod of `helm test`, and its service account. */}}
{{- define "vaultmux-mesh.testName" -}}
{{- printf "%s-test" (include "vaultmux-mesh.fullname" .) -}}
{{- end }}

{{/* The name by which proxies reach the service. */}}
{{- define "vaultmux-mesh.host" -}}
{{- printf "%s.%s.svc.cluster.local" (include "vaultmux-mesh.fullname" .) .Release.Namespace -}}
{{- end }}

{{- define "vaultmux-mesh.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{- .Values.tls.secretName -}}
{{- else if .Values.tls.certManager.enabled -}}
{{- printf "%s-tls" (include "vaultmux-mesh.fullname" .) -}}
{{- end -}}
{{- end }}

{{/* "true" if a listener takes TLS. */}}
{{- define "vaultmux-mesh.usesTls" -}}
{{- if or .Values.listeners.grpc.tls .Values.listeners.rest.tls }}true{{ end -}}
{{- end }}

{{- define "vaultmux-mesh.usesClientCa" -}}
{{- if and (include "vaultmux-mesh.usesTls" .) (or .Values.tls.clientCa.configMap .Values.tls.clientCa.secret) }}true{{ end -}}
{{- end }}

{{/* "true" if others than the pod itself may ask. */}}
{{- define "vaultmux-mesh.grpcOpen" -}}
{{- if and (eq .Values.mode "cluster") .Values.listeners.grpc.trustedPeers }}true{{ end -}}
{{- end }}

{{- define "vaultmux-mesh.grantSecret" -}}
{{- if .Values.grant.existingSecret -}}
{{- .Values.grant.existingSecret -}}
{{- else if and .Values.grant.generate (eq .Values.mode "cluster") -}}
{{- printf "%s-grant" (include "vaultmux-mesh.fullname" .) -}}
{{- end -}}
{{- end }}

{{/* "true" if the configuration has tokens reviewed by the API server. */}}
{{- define "vaultmux-mesh.reviewsTokens" -}}
{{- with (.Values.config.identity | default dict).service_account_tokens -}}
{{- if and (ne (default "both" .verify) "jwks") (not .kubeconfig) }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* "true" if the service reads from the API server with the pod's own token. */}}
{{- define "vaultmux-mesh.usesApiServer" -}}
{{- $uses := eq .Values.kubernetesApi.token "always" -}}
{{- if eq .Values.kubernetesApi.token "auto" -}}
  {{- with (.Values.config.identity | default dict).service_account_tokens -}}
    {{- $source := (.jwks | default dict).source | default "cluster" -}}
    {{- if and (not .kubeconfig) (or (ne (default "both" .verify) "jwks") (eq $source "cluster") .watch) -}}
      {{- $uses = true -}}
    {{- end -}}
  {{- end -}}
  {{- range .Values.config.backends -}}
    {{- if and (eq .type "kubernetes_secrets") (not .kubeconfig) -}}{{- $uses = true -}}{{- end -}}
    {{- if eq .type "vault_kv" -}}
      {{- with (.auth | default dict).kubernetes -}}{{- if not .token_file -}}{{- $uses = true -}}{{- end -}}{{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $uses }}true{{ end -}}
{{- end }}

{{- define "vaultmux-mesh.hasPolicies" -}}
{{- if or .Values.policies .Values.existingPolicies }}true{{ end -}}
{{- end }}
