{{- define "aggregator.name" -}}
{{- if eq .Release.Name "aggregator" -}}aggregator{{- else -}}{{ printf "%s-aggregator" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "aggregator.selector" -}}
app.kubernetes.io/name: aggregator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "aggregator.labels" -}}
{{ include "aggregator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "aggregator.claim" -}}
{{- .Values.state.existingClaim | default (printf "%s-state" (include "aggregator.name" .)) -}}
{{- end -}}

{{/* What both the Deployment and the CronJob run; `args` and `probes` differ. */}}
{{- define "aggregator.pod" -}}
serviceAccountName: {{ include "aggregator.name" . }}
automountServiceAccountToken: false
terminationGracePeriodSeconds: 30
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
containers:
  - name: aggregator
    image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    {{- if eq .Values.mode "daemon" }}
    args: [run, --config, /etc/aggregator/aggregator.yaml, --web, "0.0.0.0:8080"]
    ports:
      - name: http
        containerPort: 8080
    startupProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 5
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 20
      timeoutSeconds: 5
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 20
      timeoutSeconds: 5
    {{- else }}
    args: [run, --once, --json, --config, /etc/aggregator/aggregator.yaml]
    {{- end }}
    resources: {{ toYaml .Values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      - {name: configuration, mountPath: /etc/aggregator, readOnly: true}
      - {name: secrets, mountPath: /run/secrets/aggregator, readOnly: true}
      - {name: state, mountPath: /var/lib/aggregator}
      - {name: temporary, mountPath: /tmp}
volumes:
  - name: configuration
    configMap: {name: {{ include "aggregator.name" . }}}
  - name: secrets
    secret: {secretName: {{ .Values.secretName }}, defaultMode: 288} # 0440
  - name: state
    persistentVolumeClaim: {claimName: {{ include "aggregator.claim" . }}}
  - name: temporary
    emptyDir: {sizeLimit: {{ .Values.temporarySize }}}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A changed configuration makes a new pod: a running one reads it again by a signal only. */}}
{{- define "aggregator.annotations" -}}
checksum/configuration: {{ .Values.configuration | sha256sum }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
