// The page at redirectUri, as version 5 of MSAL wants it.
import { broadcastResponseToMainFrame } from "@azure/msal-browser/redirect-bridge";

await broadcastResponseToMainFrame();
