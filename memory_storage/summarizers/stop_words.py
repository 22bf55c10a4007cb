"""Words that say nothing about the subject of a text, in English, German, French and Spanish."""

from __future__ import annotations

_ENGLISH = """
about above after again all also although always and another any anything are aren't around ask asks because been before
being below between both but can can't cannot could did didn't does doesn't doing don't done during each either else
every everything few for from further get gets got had has have having her here hers herself him himself his how however
i'd i'll i'm i've if into is isn't it's its itself just let like make many may might more most much must myself never
nor not now off once one only onto other others our ours ourselves out over own per please rather same say says shall
she should since some something still such than that that's the their theirs them themselves then there these they this
those though three through thus too two under until upon use used user uses using very want wants was wasn't way well
were weren't what when where whether which while who whom whose why will with within without won't would yet you you're
your yours yourself
"""
_GERMAN = """
aber alle allem allen aller alles als also andere anderen auch auf aus bei beim bin bis bist bitte damit dann das dass
daß dein dem den denn der des dessen die dies diese diesem diesen dieser dieses doch dort durch ein eine einem einen
einer eines etwas euch für gegen habe haben hat hatte hatten hier ihm ihn ihnen ihr ihre ihrem ihren ihrer immer ins
ist jede jedem jeden jeder jedes jetzt kann kein keine keinem keinen keiner können könnte mehr mein meine mich mir mit
muss müssen nach nicht nichts noch nun nur ob oder ohne sehr sein seine seinem seinen seiner seit sich sie sind soll
sollte sondern über und uns unser unter viel vom von vor war waren warum was weil wenn werden wie wieder will wir wird
wurde wurden zu zum zur zwar zwischen
"""
_FRENCH = """
ainsi alors apres après aussi autre autres aux avec avoir avons avez bien car ceci cela celle celles celui ces cet cette
ceux chaque comme comment dans des donc dont elle elles encore entre est etaient était étaient été être eux faire fait
ici ils jamais les leur leurs lui mais mes moi moins mon même mêmes notre nous ont par parce pas peu peut plus pour
pourquoi quand que quel quelle quelles quels qui sans ses si son sont sous sur tandis tes toi ton tous tout toute toutes
très une vos votre vous
"""
_SPANISH = """
ahora algo alguna algunas alguno algunos ante antes aquel aquella aquí así aunque bien cada como con contra cual cuando
del desde donde dos durante ella ellas ellos entre era eran esa esas ese eso esos esta estaba estado están estar estas
este esto estos está fue fueron había han has hasta hay las les los luego más mientras mis mucho muy nada nos nosotros
nuestra nuestro otra otras otro otros para pero poco por porque puede pueden pues que quien qué ser será sido sin sobre
son sus también tanto tener tiene tienen toda todas todo todos una unas uno unos usted ustedes
"""

STOP_WORDS = frozenset(f"{_ENGLISH} {_GERMAN} {_FRENCH} {_SPANISH}".split())
"""In lower case, with the apostrophe of ASCII."""
