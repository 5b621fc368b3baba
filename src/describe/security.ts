/** Who may call, in the terms of OpenAPI. */
export const securitySchemes = {
  key: {
    type: 'http',
    scheme: 'bearer',
    description:
      'An API key (`qk_…`), a JWT of the operator’s issuer, or what the operator’s authorizer knows.',
  },
  jobToken: { type: 'http', scheme: 'bearer', description: 'A token for reading one job (`qt_…`).' },
  jobTokenInUrl: { type: 'apiKey', in: 'query', name: 'token', description: 'The same, for an EventSource.' },
} as const
